#!/usr/bin/env bash
# Everything that is to be learned on a GPU, in one command that needs no network and ends within ten minutes:
#   bash benchmarks/gpu_pack.sh                  once, where there is a network; then take repository and pack along
#   bash benchmarks/gpu_visit.sh                 on the GPU machine, with its own python3; README.md has the steps
#   bash benchmarks/gpu_visit.sh --dry-run       all of it on a CPU, in small sizes, in an environment like that machine's
# Results go to $OUT, as they come. A visit goes on where the results in benchmarks/pack/results end: copy them there.
set -euo pipefail
started=$(date +%s)
cd "$(dirname "$0")/.."
repository=$PWD
pack=$repository/benchmarks/pack
out=${OUT:-$repository/benchmarks/results/visit}
home=${RERANKKIT_VISIT:-$repository/.visit}
python=python3
alone=()

# An environment with a GPU machine's versions, made once: about 4 GB, and a network.
make_environment() {
  cmp -s benchmarks/gpu_machine.txt "$home/made" && return
  echo "setting up $home/env: a few minutes, once"
  local python312 packages
  for python312 in python3.12 python3 "$HOME"/.pyenv/versions/3.12*/bin/python none; do
    "$python312" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && break
  done
  [ "$python312" != none ] || { echo "gpu_visit.sh: a dry run needs Python 3.12" >&2; exit 1; }
  "$python312" -m venv --clear "$home/env"
  "$home/env/bin/python" -m pip install -q --no-compile -r benchmarks/gpu_machine.txt
  packages=$("$home/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # a gigabyte that no CPU ever loads
  rm -rf "$packages"/nvidia/cu13/lib/lib{cusolver,nvrtc,nvperf}* "$packages"/nvidia/cudnn/lib/libcudnn_{engines_precompiled,adv}* \
    "$packages"/nvidia/*/{include,lib/*.a,lib/*.bc} "$packages"/torch/include
  cp benchmarks/gpu_machine.txt "$home/made"
}

if [ "${1:-}" = --dry-run ]; then
  compgen -G "$pack/*.whl" >/dev/null || bash benchmarks/gpu_pack.sh
  mkdir -p "$home"
  make_environment
  python=$home/env/bin/python
  export TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES=""
  # without a network, where the system lets one take it away
  for way in "unshare -n" "unshare -rn"; do
    if $way true 2>/dev/null; then alone=($way); break; fi
  done
fi
compgen -G "$pack/*.whl" >/dev/null || { echo "gpu_visit.sh: no wheels in $pack; make them with gpu_pack.sh" >&2; exit 1; }

unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"${alone[@]}" "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$pack"/*.whl
mkdir -p "$out"
if [ -d "$pack/results" ] && [ ! -e "$out/visit.json" ]; then cp "$pack/results"/* "$out"; fi
export PYTHONPATH=$site:$repository:$repository/kernels PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"${alone[@]}" "$python" benchmarks/gpu_visit.py --out "$out" --started "$started" "$@"
