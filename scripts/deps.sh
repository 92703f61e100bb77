#!/usr/bin/env bash
# Installs what the tests need beside Go: the modules, a C compiler for the race
# detector, curl, Redis, jq and openssl where the machine has none, and Envoy.
set -euo pipefail
cd "$(dirname "$0")/.."

# install PACKAGE... installs Debian's packages, where this machine takes them.
install() {
  [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || return
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y "$@"
}

# need COMMAND WHY PACKAGE... makes sure that there is the command.
need() {
  local command=$1 why=$2
  shift 2
  if command -v "$command" >/dev/null || install "$@"; then
    return
  fi
  echo "deps: $why; install $command" >&2
  exit 1
}

go mod download
compiler=$(go env CC)
need "${compiler%% *}" "the race detector needs a C compiler" gcc libc6-dev
need curl "the example behind Envoy is asked by curl" curl
need redis-server "limits are tested in Redis 7.0 or newer" redis-server
need jq "the audit log is verified by hand with jq" jq
need openssl "the audit log is verified by hand with openssl" openssl
scripts/envoy.sh --install >/dev/null
