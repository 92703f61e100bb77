#!/usr/bin/env bash
# Says whether proto/ still keeps what proto/baseline.binpb promised.
#
#   breaking.sh            compare; then prove that a break would have been seen
#   breaking.sh --update   move the baseline to what proto/ says now; refused if
#                          that breaks a promise, unless BREAK=yes
#
# The baseline is a committed descriptor and not a branch or tag: it is there in
# a shallow clone, in a fork and before the first tag, and without it the check
# fails instead of passing.
# Run it through make, which puts the pinned tools on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

baseline=proto/baseline.binpb
scratch=.cache/breaking
# buf answers this for a broken promise, and 1 for a failure of its own.
broken=100

image() { buf build proto --exclude-source-info -o "$1"; }

if [[ ${1:-} == --update ]]; then
  if [[ -f $baseline && ${BREAK:-no} != yes ]] && ! buf breaking proto --against "$baseline"; then
    echo "breaking: refused; if the break is meant, say why in CHANGELOG.md and run 'make baseline BREAK=yes'" >&2
    exit 1
  fi
  image "$baseline"
  echo "breaking: $baseline is what proto/ says now"
  exit 0
fi

if [[ ! -f $baseline ]]; then
  echo "breaking: $baseline is missing; it is committed, so restore it" >&2
  exit 1
fi
buf breaking proto --against "$baseline"

# The check must be able to fail: renumber the first field or value of each file
# of the baseline in a copy, and see buf name that file.
rm -rf "$scratch"
mkdir -p "$scratch"
cp -R buf.yaml third_party proto "$scratch/"
files=0
while read -r file; do
  [[ $file == kelpie/* ]] || continue
  files=$((files + 1))
  copy=$scratch/proto/$file
  sed '0,/^\( *[a-zA-Z][^=[]*\) = 1\b/s//\1 = 1999/' "proto/$file" >"$copy"
  if cmp -s "proto/$file" "$copy"; then
    echo "breaking: found nothing to renumber in proto/$file, so its check is not proven" >&2
    exit 1
  fi
  status=0
  found=$(cd "$scratch" && buf breaking proto --against "../../$baseline" 2>&1) || status=$?
  if [[ $status -ne $broken ]] || ! grep -qF "proto/$file" <<<"$found"; then
    printf 'breaking: a renumbered field in proto/%s was not caught (exit %s):\n%s\n' "$file" "$status" "$found" >&2
    exit 1
  fi
  cp "proto/$file" "$copy"
done < <(buf ls-files "$baseline")
if [[ $files -eq 0 ]]; then
  echo "breaking: $baseline promises nothing; run 'make baseline'" >&2
  exit 1
fi

image "$scratch/now.binpb"
if ! cmp -s "$baseline" "$scratch/now.binpb"; then
  echo "breaking: proto/ has grown since the baseline; 'make baseline' promises the new parts as well"
fi
echo "breaking: no promise broken; a planted break was caught in each of $files files"
