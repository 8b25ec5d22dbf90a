#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Question: how much of its HTTP/1.1 rate does the forwarding path keep when clients speak HTTP/2 in clear text, up to one
# connection for 500 functions? The functions speak HTTP/1.1 in all cases. Turns of one run, the best round of each is kept.
# Units: requests/s, and microseconds of the proxy's CPU per request, which is what counts when the client is the limit.
#
#   bench/h2_bench.sh BUILD_DIRECTORY [SECONDS] [ROUNDS]
#
# Prints one line of key=value per case. Needs h2load (package nghttp2-client).
set -eu
build=${1:?usage: h2_bench.sh BUILD_DIRECTORY [SECONDS] [ROUNDS]}
seconds=${2:-4} rounds=${3:-3}
harness=$build/bench/proxy_harness
command -v h2load > /dev/null || { echo "h2_bench: h2load is missing (apt-get install nghttp2-client)" >&2; exit 3; }
[ -x "$harness" ] || { echo "h2_bench: $harness is missing (ninja -C $build bench/proxy_harness)" >&2; exit 3; }

work=$(mktemp -d)
mkfifo "$work/stdin"
sleep 100000 > "$work/stdin" &   # the servers end when this does
holder=$!
cleanup() {
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
  echo "h2_bench: a server did not start" >&2
  exit 1
}
"$harness" upstream 0 < "$work/stdin" > "$work/upstream" &
upstream=$(wait_for_line "$work/upstream")
"$harness" proxy 1 "$upstream" 500 < "$work/stdin" > "$work/proxy" &
proxy=$!
ours=$(wait_for_line "$work/proxy")
for i in $(seq 0 499); do echo "http://$ours/function/f$i"; done > "$work/functions"
ticks=$(getconf CLK_TCK)
cpu_us() { awk -v t="$ticks" '{ print ($14 + $15) * 1000000 / t }' "/proc/$proxy/stat"; }

measure() {  # NAME H2LOAD_WORD...
  name=$1
  shift
  before=$(cpu_us)
  h2load -t 1 -D "$seconds" "$@" > "$work/h2load"
  after=$(cpu_us)
  awk -v before="$before" -v after="$after" -v name="$name" '
    /^requests:/ { done = $6; failed = $10 + $12 + $14 } /^finished in/ { gsub(/s,/, "", $3); rate = $4 }
    /^status codes:/ { good = $3 }
    END {
      if (done == 0 || failed > 0 || good < done) { print "h2_bench: " name " failed" > "/dev/stderr"; exit 1 }
      print rate, (after - before) / done
    }' "$work/h2load" >> "$work/$name" || { cat "$work/h2load" >&2; exit 1; }
}
for round in $(seq "$rounds"); do
  measure http1_64 --h1 -c 64 "http://$ours/function/bench"
  measure http2_64 -c 1 -m 64 "http://$ours/function/bench"
  measure http2_8x8 -c 8 -m 8 "http://$ours/function/bench"
  measure http2_500_functions -c 1 -m 500 -i "$work/functions"
done
best() { awk '{ if ($1 > rate) rate = $1; if (NR == 1 || $2 < cpu) cpu = $2 } END { print rate, cpu }' "$work/$1"; }
set -- $(best http1_64)
base_rate=$1 base_cpu=$2
for name in http1_64 http2_64 http2_8x8 http2_500_functions; do
  set -- $(best $name)
  echo "bench=h2 case=$name rounds=$rounds rps=$1 cpu_us=$2" \
    "$(awk "BEGIN { printf \"rate_ratio=%.2f per_core_ratio=%.2f\", $1 / $base_rate, $base_cpu / $2 }")"
done
