#!/usr/bin/env bash
# Installs what the tests need beside Go: the modules, and a C compiler for the
# race detector where the machine has none.
set -euo pipefail
cd "$(dirname "$0")/.."

go mod download
compiler=$(go env CC)
if command -v "${compiler%% *}" >/dev/null; then
  exit 0
fi
if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y gcc libc6-dev
  exit 0
fi
echo "deps: the race detector needs a C compiler ($compiler); install gcc or clang" >&2
exit 1
