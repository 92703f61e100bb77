#!/usr/bin/env bash
# Installs what the tests need beside Go: the modules, a C compiler for the race
# detector, curl and Redis where the machine has none, and Envoy.
set -euo pipefail
cd "$(dirname "$0")/.."

# need_compiler makes sure that there is the C compiler which go would call.
need_compiler() {
  local compiler
  compiler=$(go env CC)
  if command -v "${compiler%% *}" >/dev/null; then
    return
  fi
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y gcc libc6-dev
    return
  fi
  echo "deps: the race detector needs a C compiler ($compiler); install gcc or clang" >&2
  exit 1
}

# need_curl makes sure that there is curl, by which the example is asked.
need_curl() {
  if command -v curl >/dev/null; then
    return
  fi
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y curl
    return
  fi
  echo "deps: the example behind Envoy is asked by curl; install it" >&2
  exit 1
}

# need_redis makes sure that there is Redis, in which limits are tested.
need_redis() {
  if command -v redis-server >/dev/null; then
    return
  fi
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y redis-server
    return
  fi
  echo "deps: limits in Redis are tested with redis-server; install Redis 7.0 or newer" >&2
  exit 1
}

go mod download
need_compiler
need_curl
need_redis
scripts/envoy.sh --install >/dev/null
