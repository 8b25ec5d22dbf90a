#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs BUILD/bench/runtimes with a containerd of its own, in process, mount and network namespaces that end with it. Where
# crun needs it, hugetlb is mounted as version 1 meanwhile.
#
#   bench/runtimes.sh BUILD_DIRECTORY [COUNT] [VARIANT...]               cold starts: see bench/runtimes.cpp
#   bench/runtimes.sh BUILD_DIRECTORY leftovers [COUNT] [VARIANT...]     what starts and removals leave behind
set -euo pipefail

build=${1:?usage: bench/runtimes.sh BUILD_DIRECTORY [leftovers] [COUNT] [VARIANT...]}
if [ "${RUNTIMES_INSIDE:-}" != yes ]; then
  RUNTIMES_INSIDE=yes exec unshare --net --mount --pid --fork --mount-proc --kill-child -- "$0" "$@"
fi
shift
mode=()
if [ "${1:-}" = leftovers ]; then
  mode=(leftovers)
  shift
fi
count=${1:-100}
shift $(($# < 1 ? $# : 1))
directory=$(mktemp -d)
daemon=
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
# Shims keep their sockets there; nobody else's are looked at.
mkdir -p /run/containerd
mount -t tmpfs tmpfs /run/containerd

clean_up() {
  [ -n "$daemon" ] && kill "$daemon" 2>/dev/null && wait "$daemon" || true
  for hierarchy in /sys/fs/cgroup/*/dirigent; do
    [ -d "$hierarchy" ] || continue
    rmdir "$hierarchy/bench" "$hierarchy" 2>/dev/null || true
  done
  umount /run/containerd || true
  if mountpoint -q /sys/fs/cgroup/hugetlb; then umount /sys/fs/cgroup/hugetlb && rmdir /sys/fs/cgroup/hugetlb; fi
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
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
  fi
  containerd --config "$directory/config.toml" --log-level error 2>"$directory/log" &
  daemon=$!
  until [ -S "$address" ]; do kill -0 "$daemon"; sleep 0.01; done
fi
"$build/bench/runtimes" "${mode[@]}" "$count" "$address" "$@"
