#!/usr/bin/env bash
# Runs the tests with the race detector.
#
#   test.sh quick   reduced counts, for every change
#   test.sh full    the counts that the proofs state
#
# How a test learns it: KELPIE_PROOF is quick or full, KELPIE_SEED is the seed of
# whatever a test draws at random (the default is fixed, so that a red run is the
# same run for everyone). Property tests by pgregory.net/rapid need no code for
# it: packages whose test binary links rapid are run with its flags.
set -euo pipefail
cd "$(dirname "$0")/.."

export KELPIE_PROOF=${1:?quick or full} KELPIE_SEED=${KELPIE_SEED:-20260101}
case $KELPIE_PROOF in
quick) timeout=10m checks=${RAPID_CHECKS:-100} ;;
full) timeout=60m checks=${RAPID_CHECKS:-20000} ;;
*)
  echo "usage: test.sh quick|full" >&2
  exit 2
  ;;
esac

go vet ./...
# Programs in modules of their own, which ./... does not reach.
for main in tools/*/main.go; do
  go vet -C "${main%/*}" ./...
done
all=$(go list ./...)
with_rapid=$(go list -test -f \
  '{{$p := .ImportPath}}{{range .Deps}}{{if eq . "pgregory.net/rapid"}}{{$p}}{{"\n"}}{{end}}{{end}}' ./... |
  sed -n 's/\.test$//p' | sort -u)
# The suite through Envoy is long, and run by itself below, with its counts.
without=$(comm -23 <(sort -u <<<"$all") <(printf '%s\n' "$with_rapid") | grep -v '/internal/envoytest$')

echo "tests: KELPIE_PROOF=$KELPIE_PROOF KELPIE_SEED=$KELPIE_SEED rapid.checks=$checks"
status=0
if [[ -n $with_rapid ]]; then
  # shellcheck disable=SC2086 # one argument per package
  go test -race -timeout="$timeout" $with_rapid -rapid.seed="$KELPIE_SEED" -rapid.checks="$checks" || status=1
fi
if [[ -n $without ]]; then
  # shellcheck disable=SC2086 # one argument per package
  go test -race -timeout="$timeout" $without || status=1
fi

# Bounds of time are proved without the race detector, which slows down what is in Go.
if [[ $KELPIE_PROOF == full ]]; then
  go test -count=1 -timeout="$timeout" -run '^TestManyPending$' ./store/sqlitestore ./store/redisstore || status=1
fi

# counted runs a suite of which a passing run is worth more than "ok": how many
# questions it asked.
counted() {
  local package=$1 run=$2 lines=$3 log=.cache/counted.log
  mkdir -p .cache
  if ! go test -race -v -count=1 -timeout="$timeout" -run "$run" "$package" >"$log" 2>&1; then
    cat "$log"
    status=1
    return
  fi
  grep -E "$lines|^ok" "$log"
}
counted ./internal/cli '^TestParity' 'tests ran'
counted ./internal/app '^TestParity' 'tests ran'
counted ./server/extauthz '^TestBypassSuite' 'bypass cases'
counted ./internal/envoytest . 'bypass cases'
exit $status
