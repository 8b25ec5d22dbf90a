#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# From a clean checkout to a called function: installs what is missing (Debian, Ubuntu), builds, starts `dirigent dev`,
# deploys the hello function and calls it cold and warm. Ends with the server running in the foreground; with --once it
# stops the server, having used free ports only.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/quickstart.sh [--once] [--runtime NAME] [-- FLAGS OF dirigent dev]
  --once          stop the server at the end, and use free ports instead of 8080 and 9091 to 9093
  --runtime NAME  process (default), oci or containerd; installs what it needs. Where no containerd runs, one of this
                  script's own is started and ended with it
environment: BUILD_DIR (default: build-release below the checkout), JOBS (default: one per CPU)
TEXT
}

once=no
runtime=process
while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=yes ;;
    --runtime) runtime=${2:-}; shift ;;
    --runtime=*) runtime=${1#*=} ;;
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "quickstart: unknown word \"$1\"" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

case "$runtime" in
  process|oci|containerd) ;;
  *) echo "quickstart: unknown runtime \"$runtime\": use process, oci or containerd" >&2; exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${BUILD_DIR:-$root/build-release}
step() { printf '\n==> %s\n' "$*" >&2; }
fail() { printf '\nquickstart: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }

# shellcheck source=packages.sh
. "$root/deploy/packages.sh"

# --- build ----------------------------------------------------------------------------------------------------------
build_binary() {
  step "building in $build (a few minutes the first time)"
  if [ ! -f "$build/build.ninja" ]; then
    meson setup "$build" "$root" -Dtests=false -Dbenchmarks=false >"$build.log" 2>&1 || { cat "$build.log" >&2; fail "meson could not set the build up"; }
    rm -f "$build.log"
  fi
  ninja -C "$build" ${JOBS:+-j "$JOBS"} src/dirigent >&2 || fail "the build failed" "see the compiler's words above"
}

# --- run ------------------------------------------------------------------------------------------------------------
scratch=$(mktemp -d)
server=
daemon=
made_run_directory=
stop_server() {
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    kill -TERM "$server"
    wait "$server" || true
  fi
  if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
    kill -TERM "$daemon"
    wait "$daemon" || true
  fi
  # Shims put their sockets there, wherever containerd itself lives.
  [ -z "$made_run_directory" ] || rm -rf /run/containerd
  rm -rf "$scratch"
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_server() {
  local flags=("$@")
  [ "$once" = yes ] && flags=(--listen 127.0.0.1:0 --form-listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --data-admin-listen 127.0.0.1:0 "${flags[@]}")
  step "dirigent dev ${flags[*]}"
  "$build/src/dirigent" dev --print-addresses "${flags[@]}" >"$scratch/addresses" &
  server=$!
  # Ready is when the line with the addresses is there; the server says itself why it does not come.
  local tries=0
  until grep -q '"admin":' "$scratch/addresses"; do
    kill -0 "$server" 2>/dev/null || fail "the server ended before it was ready (its words are above)"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || fail "the server was not ready within 30 s"
    sleep 0.05
  done
  DIRIGENT_SERVER=$(sed -n 's/.*"admin":"\([^"]*\)".*/\1/p' "$scratch/addresses")
  export DIRIGENT_SERVER
}

# The system's containerd where there is one, else one that lives as long as this script.
containerd_address=/run/containerd/containerd.sock
start_containerd() {
  [ -S "$containerd_address" ] && return
  [ "$(id -u)" -eq 0 ] || fail "containerd does not run, and only root can start it" "start it:  systemctl start containerd"
  [ -d /run/containerd ] || made_run_directory=yes
  containerd_address=$scratch/containerd.sock
  step "no containerd runs: starting one in $scratch"
  cat >"$scratch/containerd.toml" <<TOML
version = 2
oom_score = 0
root = "$scratch/containerd"
state = "$scratch/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$containerd_address"
[plugins."io.containerd.internal.v1.opt"]
  path = "$scratch/opt"
TOML
  containerd --config "$scratch/containerd.toml" --log-level error 2>"$scratch/containerd.log" &
  daemon=$!
  local tries=0
  until [ -S "$containerd_address" ]; do
    kill -0 "$daemon" 2>/dev/null || { cat "$scratch/containerd.log" >&2; fail "containerd does not start (its words are above)"; }
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || fail "containerd was not ready within 30 s"
    sleep 0.05
  done
}

ctl() { "$build/src/dirigent" ctl "$@"; }

wait_for_no_sandbox() {
  local tries=0
  until [ "$(ctl list --no-headers | awk '$1 == "hello" {print $5}')" = 0 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || fail "the sandboxes of hello did not go within 30 s"
    sleep 0.05
  done
}

# shellcheck disable=SC2046  # one word per package
install_packages "${build_packages[@]}" $(runtime_packages "$runtime")
build_binary
case "$runtime" in
  process) start_server "$@" ;;
  oci) start_server --runtime oci "$@" ;;
  containerd) start_containerd; start_server --runtime containerd --containerd-address "$containerd_address" "$@" ;;
esac

step "ctl deploy hello --image builtin:hello"
ctl deploy hello --image builtin:hello

step "a cold call: scale to zero, then invoke"
ctl scale hello 0 -q
wait_for_no_sandbox
ctl invoke hello -v --fail

step "a warm call"
ctl invoke hello -v --fail

step "what there is now: ctl list"
ctl list

url=$(ctl list -o url)
if [ "$once" = yes ]; then
  step "done: built, started, deployed, called cold and warm; stopping"
  exit 0
fi
step "done. The server goes on until Ctrl-C. In another terminal:"
cat >&2 <<TEXT
  curl $url
  export DIRIGENT_SERVER=$DIRIGENT_SERVER PATH=$build/src:\$PATH
  dirigent ctl describe hello
TEXT
wait "$server" || true
