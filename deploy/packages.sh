# SPDX-License-Identifier: MIT
#
# Sourced, not run: which Debian or Ubuntu packages are needed, and how they are installed.
# The caller defines step TEXT and fail LINE... (which does not return).

build_packages=(g++ meson ninja-build pkg-config git ca-certificates curl libasio-dev capnproto libcapnp-dev librocksdb-dev
                libnftables-dev libnghttp2-dev libcurl4-openssl-dev zlib1g-dev libzstd-dev nlohmann-json3-dev libcli11-dev libfmt-dev libexpected-dev catch2)
test_packages=(python3 haproxy openssl libcurl4 iproute2 procps nftables libasan8 libubsan1
               nghttp2-client python3-grpcio python3-websockets
               containerd runc crun containernetworking-plugins docker-registry util-linux)
# What a worker needs besides, by its runtime; libcurl is for pulling images.
runtime_packages() {  # RUNTIME
  case "$1" in
    oci) echo crun libcurl4 ca-certificates ;;
    containerd) echo containerd runc libcurl4 ca-certificates ;;
  esac
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_packages() {  # PACKAGE...
  local package
  for package in "$@"; do
    is_installed "$package" || echo "$package"
  done
  # llhttp is a library of its own on Debian 13 and Ubuntu 24.04, and part of Node's packages on Debian 12.
  is_installed libllhttp-dev || is_installed node-llhttp || {
    if apt-cache show libllhttp-dev >/dev/null 2>&1; then echo libllhttp-dev; else echo node-llhttp; fi
  }
}

install_packages() {  # PACKAGE...
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    fail "this is not a Debian or Ubuntu system: apt-get is missing" \
         "install a C++20 compiler, meson, ninja, asio, capnproto, rocksdb, nlohmann-json, CLI11, fmt, tl-expected, llhttp and" \
         "Catch2, then build by hand:  meson setup build && ninja -C build"
  fi
  local missing as_root=()
  missing=$(missing_packages "$@" | tr '\n' ' ')
  [ -z "${missing// /}" ] && { step "packages: all there"; return; }
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "packages are missing and this is neither root nor is there sudo" "as root:  apt-get install $missing"
    as_root=(sudo)
  fi
  step "installing $missing"
  "${as_root[@]}" apt-get update -q >/dev/null ||
    fail "apt-get update failed: no network, or no package mirror can be reached" "with a network:  apt-get install $missing"
  # The list is asked for again, because only now apt knows what this release has.
  missing=$(missing_packages "$@" | tr '\n' ' ')
  # shellcheck disable=SC2086  # one word per package
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >/dev/null ||
    fail "apt-get could not install: $missing" "see its words above"
}
