#!/usr/bin/env bash
# Generates gen/ from proto/, offline but for Go modules.
#
#   generate.sh              replace what is generated
#   generate.sh --check      exit 1 with the difference if gen/ is not what proto/ gives
#   generate.sh --validate   only fetch validate.proto, which linting needs too
#
# Everything is generated into .cache/ first, so that a broken proto leaves gen/
# as it was and that the check neither writes to gen/ nor needs git.
# Run it through make, which puts the pinned tools on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# buf's validation rules, as a Go module. It holds no Go package, so no go.mod can
# keep it; its version and its content are pinned here.
validate_module=github.com/bufbuild/protovalidate@v1.2.2
validate_sum=h1:2H/9/Kr97etSRqW3IJjTTb09z+zutkK2GDhDRbOnqr4=

mode=${1:-write}
scratch=.cache/generate

# copy_validate puts validate.proto where buf.yaml looks for it.
copy_validate() {
  local stamp=third_party/protovalidate/.sum target=third_party/protovalidate/buf/validate
  if [[ -f $target/validate.proto && -f $stamp && $(<"$stamp") == "$validate_sum" ]]; then
    return
  fi
  local answer dir
  answer=$(go mod download -json "$validate_module")
  if ! grep -qF "\"Sum\": \"$validate_sum\"" <<<"$answer"; then
    printf 'generate: %s is not the content pinned in %s:\n%s\n' "$validate_module" "$0" "$answer" >&2
    exit 1
  fi
  dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$answer")
  rm -rf third_party/protovalidate
  mkdir -p "$target"
  cp "$dir/proto/protovalidate/buf/validate/validate.proto" "$target/validate.proto"
  chmod u+w "$target/validate.proto"
  printf '%s' "$validate_sum" >"$stamp"
}

# same reports whether the generated file or folder $1 is what gen/$2 holds.
same() {
  diff -ru "gen/$2" "$scratch/$1" >&2
}

copy_validate
if [[ $mode == --validate ]]; then
  exit 0
fi
rm -rf "$scratch"
mkdir -p "$scratch"
buf generate -o "$scratch"
buf generate --template buf.gen.schema.yaml -o "$scratch"
# The plugin writes a schema per message; these two are what a file can be.
schemas=(Policy:policy.schema.json TestFile:policy_test.schema.json)
for pair in "${schemas[@]}"; do
  cp "$scratch/schema/kelpie.policy.v1.${pair%%:*}.schema.bundle.json" "$scratch/${pair##*:}"
done

case $mode in
--check)
  ok=true
  same gen/kelpie kelpie || ok=false
  for pair in "${schemas[@]}"; do
    same "${pair##*:}" "schema/${pair##*:}" || ok=false
  done
  if ! $ok; then
    echo "generate: gen/ is not what proto/ gives; run 'make generate' and commit the result" >&2
    exit 1
  fi
  echo "generate: gen/ is what proto/ gives"
  ;;
write)
  mkdir -p gen/schema
  rm -rf gen/kelpie
  cp -R "$scratch/gen/kelpie" gen/kelpie
  for pair in "${schemas[@]}"; do
    cp "$scratch/${pair##*:}" "gen/schema/${pair##*:}"
  done
  ;;
*)
  echo "usage: generate.sh [--check | --validate]" >&2
  exit 2
  ;;
esac
