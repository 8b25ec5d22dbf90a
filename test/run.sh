#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Installs what is missing (Debian, Ubuntu), builds, and runs every test. The last line counts them.
#
# usage: test/run.sh [--sanitize address|thread] [NAME...]     NAME: a test of `meson introspect --tests`
# environment: BUILD_DIR (default: build-test below the checkout), JOBS (default: one per CPU)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
step() { printf '\n==> %s\n' "$*" >&2; }
fail() { printf '\ntest/run.sh: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }

sanitize=none
if [ "${1:-}" = --sanitize ]; then
  case "${2:-}" in address|thread) sanitize=$2 ;; *) fail "--sanitize needs address or thread" ;; esac
  shift 2
fi
build=${BUILD_DIR:-$root/build-test}
[ "$sanitize" = none ] || build=$build-$sanitize

# shellcheck source=../deploy/packages.sh
. "$root/deploy/packages.sh"
install_packages "${build_packages[@]}" "${test_packages[@]}"

step "building in $build"
if [ ! -f "$build/build.ninja" ]; then
  meson setup "$build" "$root" -Dbuildtype=custom -Doptimization=1 -Ddebug=false -Db_lto=false -Dbenchmarks=false -Dfault_points=true \
    -Dsanitize="$sanitize" >"$build.log" 2>&1 || { cat "$build.log" >&2; fail "meson could not set the build up"; }
  rm -f "$build.log"
elif ! grep -qs 'HAS_FAULT_POINTS 1' "$build/include/dirigent/base/fault_point_config.h"; then
  meson configure "$build" -Dfault_points=true  # a directory of an older checkout
fi
ninja -C "$build" ${JOBS:+-j "$JOBS"} >"$build/ninja.log" 2>&1 || { tail -n 60 "$build/ninja.log" >&2; fail "the build failed"; }

step "testing"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:abort_on_error=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
exec python3 "$root/test/run_tests.py" "$build" "$@"
