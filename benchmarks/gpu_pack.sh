#!/usr/bin/env bash
# Fetches what a GPU machine without a network lacks, as wheels for its Python 3.12, into benchmarks/pack. Needs a network.
# Versions are those of constraints.txt. Models that packages carry are left out: none is under 80 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
pack=benchmarks/pack
names=(
  transformers catalogue confection bm25s ir_measures pytrec_eval-terrier  # what rerankkit imports
  hypothesis sortedcontainers pytest-xdist==3.8.0 execnet==2.1.2           # what its tests import
)
platforms=(--platform={manylinux_2_{28,27,17},manylinux2014,manylinux1}_x86_64)

mkdir -p "$pack"
rm -f "$pack"/*.whl
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" -d "$pack" --constraint constraints.txt "${names[@]}"

# What travels is the repository, its untracked files that are not ignored, and the pack with results of earlier visits.
wheels=$(cat "$pack"/*.whl | wc -c)
repository=$(git ls-files -z --cached --others --exclude-standard | xargs -0 cat 2>/dev/null | wc -c)
travels=$((repository + $(find "$pack" -type f -exec cat {} + | wc -c)))
echo "pack: $((wheels / 1000000)) MB in $(ls "$pack"/*.whl | wc -l) wheels; with the repository $((travels / 1048576)) MiB"
if [ "$wheels" -gt 40000000 ] || [ "$travels" -gt $((60 * 1048576)) ]; then
  echo "gpu_pack.sh: too much to travel: at most 40 MB of wheels, and 60 MiB in all. Leave something out." >&2
  exit 1
fi
