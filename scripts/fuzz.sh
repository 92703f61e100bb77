#!/usr/bin/env bash
# Runs every fuzz target of the module one after the other, FUZZTIME each, and
# prints how many inputs each one tried. Stops at the first finding. Minimising is
# kept short: on large seeds it would eat the whole time.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${FUZZTIME:-60s}
pattern=${FUZZ:-^Fuzz}
mkdir -p .cache
log=.cache/fuzz.log
summary=()

# `go test -list` prints the targets of a package and then its import path.
targets=$(go test -list "$pattern" ./... | awk '
  /^Fuzz/ { names[++n] = $1 }
  $1 == "ok" { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }')
if [[ -z $targets ]]; then
  echo "fuzz: no target matches $pattern" >&2
  exit 1
fi
while read -r package name; do
  echo "== $package $name ($fuzztime)"
  go test -run='^$' -fuzz="^$name\$" -fuzztime="$fuzztime" -fuzzminimizetime=20x "$package" 2>&1 </dev/null | tee "$log"
  execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
  summary+=("$(printf '%14s execs  %s %s' "${execs:-0}" "$package" "$name")")
done <<<"$targets"
printf '%s\n' "${summary[@]}"
