#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs BUILD/bench/runtimes with a containerd of its own (own directories and network namespace), which it ends
# afterwards. Where crun needs it, hugetlb is mounted as version 1 meanwhile.
#
#   bench/runtimes.sh BUILD_DIRECTORY [COUNT] [VARIANT...]
set -euo pipefail

build=${1:?usage: bench/runtimes.sh BUILD_DIRECTORY [COUNT] [VARIANT...]}
count=${2:-100}
shift $(($# < 2 ? $# : 2))
directory=$(mktemp -d)
daemon=
mounted=no
had_run=$([ -d /run/containerd ] && echo yes || echo no)

clean_up() {
  [ -n "$daemon" ] && kill "$daemon" 2>/dev/null && wait "$daemon" || true
  for hierarchy in /sys/fs/cgroup/*/dirigent; do
    [ -d "$hierarchy" ] || continue
    rmdir "$hierarchy/bench" "$hierarchy" 2>/dev/null || true
  done
  if [ "$mounted" = yes ]; then umount /sys/fs/cgroup/hugetlb && rmdir /sys/fs/cgroup/hugetlb; fi
  [ "$had_run" = yes ] || rm -rf /run/containerd
  rm -rf "$directory"
}
trap clean_up EXIT

address=
if command -v containerd >/dev/null; then
  address=$directory/containerd.sock
  cat >"$directory/config.toml" <<TOML
version = 2
oom_score = 0
root = "$directory/root"
state = "$directory/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$address"
[plugins."io.containerd.internal.v1.opt"]
  path = "$directory/opt"
TOML
  if [ "$(cat /sys/fs/cgroup/unified/cgroup.controllers 2>/dev/null)" = hugetlb ]; then
    mkdir -p /sys/fs/cgroup/hugetlb
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb && mounted=yes
  fi
  unshare --net containerd --config "$directory/config.toml" --log-level error 2>"$directory/log" &
  daemon=$!
  until [ -S "$address" ]; do kill -0 "$daemon"; sleep 0.01; done
fi
"$build/bench/runtimes" "$count" "$address" "$@"
