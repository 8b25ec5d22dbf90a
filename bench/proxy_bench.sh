#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Question: what does the forwarding path cost beside HAProxy? Both forward to the same upstream, with the same number of
# threads, in turns of one run; of each figure the best of the rounds is kept. Unit: microseconds and requests/s.
#
#   bench/proxy_bench.sh BUILD_DIRECTORY [SHARDS] [SECONDS] [ROUNDS] [BODY_BYTES]
#
# Prints one line of key=value per figure. Needs wrk and haproxy.
set -eu
build=${1:?usage: proxy_bench.sh BUILD_DIRECTORY [SHARDS] [SECONDS] [ROUNDS] [BODY_BYTES]}
shards=${2:-1} seconds=${3:-5} rounds=${4:-3} body=${5:-0}
harness=$build/bench/proxy_harness
[ -x "$harness" ] || harness=$build/harness
for tool in wrk haproxy; do
  command -v $tool > /dev/null || { echo "proxy_bench: $tool is missing (apt-get install $tool)" >&2; exit 3; }
done
[ -x "$harness" ] || { echo "proxy_bench: $harness is missing (ninja -C $build bench/proxy_harness)" >&2; exit 3; }

work=$(mktemp -d)
mkfifo "$work/stdin"
sleep 100000 > "$work/stdin" &   # the servers end when this does
holder=$!
haproxy_pid=
cleanup() {
  [ -z "$haproxy_pid" ] || kill "$haproxy_pid" 2> /dev/null || true
  kill $holder 2> /dev/null || true
  wait 2> /dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

wait_for_line() {  # FILE
  for _ in $(seq 200); do
    [ -s "$1" ] && { head -n 1 "$1"; return; }
    sleep 0.05
  done
  echo "proxy_bench: a server did not start" >&2
  exit 1
}
"$harness" upstream "$body" < "$work/stdin" > "$work/upstream" &
upstream=$(wait_for_line "$work/upstream")
"$harness" proxy "$shards" "$upstream" < "$work/stdin" > "$work/proxy" &
ours=$(wait_for_line "$work/proxy")

# HAProxy takes no port 0, so a free port is asked for first.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$work/haproxy.cfg" << CONFIG
global
  nbthread $shards
  maxconn 4000
defaults
  mode http
  option http-keep-alive
  timeout client 60s
  timeout server 60s
  timeout connect 1s
  http-reuse always
listen bench
  bind 127.0.0.1:$port
  server upstream $upstream maxconn 4000
CONFIG
haproxy -db -f "$work/haproxy.cfg" 2> "$work/haproxy.log" &
haproxy_pid=$!
for _ in $(seq 100); do
  kill -0 $haproxy_pid 2> /dev/null || { cat "$work/haproxy.log" >&2; exit 1; }
  python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2> /dev/null && break
  sleep 0.05
done

measure() {  # NAME ADDRESS CONNECTIONS: appends "p50 p99 rps" in microseconds
  wrk -t1 -c"$3" -d"$seconds" --latency "http://$2/function/bench" > "$work/wrk"
  if grep -q 'Non-2xx\|Socket errors' "$work/wrk"; then
    echo "proxy_bench: $1 answered with errors:" >&2
    cat "$work/wrk" >&2
    exit 1
  fi
  awk '
    function us(text) {
      if (text ~ /us$/) return text + 0
      if (text ~ /ms$/) return text * 1000
      return text * 1000000
    }
    /^ *50%/ { p50 = us($2) } /^ *99%/ { p99 = us($2) } /^Requests\/sec/ { rps = $2 }
    END { print p50, p99, rps }' "$work/wrk" >> "$work/$1.$3"
}
for round in $(seq "$rounds"); do
  for connections in 1 64; do
    measure haproxy "127.0.0.1:$port" $connections
    measure dirigent "$ours" $connections
  done
done
best() { awk '{ if (NR == 1 || $1 < p50) p50 = $1; if (NR == 1 || $2 < p99) p99 = $2; if ($3 > rps) rps = $3 }
  END { print p50, p99, rps }' "$work/$1.$2"; }
for connections in 1 64; do
  set -- $(best haproxy $connections) $(best dirigent $connections)
  echo "bench=proxy connections=$connections shards=$shards body=$body rounds=$rounds" \
    "haproxy_p50_us=$1 haproxy_p99_us=$2 haproxy_rps=$3 dirigent_p50_us=$4 dirigent_p99_us=$5 dirigent_rps=$6" \
    "$(awk "BEGIN { printf \"p50_ratio=%.2f p99_ratio=%.2f rps_ratio=%.2f\", $4 / $1, $5 / $2, $6 / $3 }")"
done
