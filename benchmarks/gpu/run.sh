#!/usr/bin/env bash
# Tests and benchmarks for a machine with an NVIDIA GPU that is available for a few minutes: two
# parts, without network, each a sequence of steps, the most important first.
#
#   benchmarks/gpu/run.sh first    builds in place; a first call; times at N = 34,167; counters of
#                                  each kernel (ncu); the tests of the GPU. At most 330 s.
#   benchmarks/gpu/run.sh second   continues with that build: memcheck, racecheck, synccheck; times at
#                                  N = 100,000 and 400,000; training. At most 300 s.
#
#   PYTHON           an interpreter with a CUDA build of PyTorch >= 2.10, setuptools, ninja, pytest,
#                    pytest-xdist, pytest-timeout, hypothesis and scikit-learn (python3)
#   OUT              where the results go (benchmarks/gpu/output): four files a part
#   MABM_COMMIT      the commit to name in the results, if there is no .git
#   MABM_SECONDS     the limit of the part, instead of the seconds above
#   MABM_DEVICE=cpu  a dry run without a GPU: the same steps on small inputs
#
# Every step has its own time limit, is recorded when it ends, and does not stop the next. Exits with
# 1 if the build, a comparison, a test or a sanitizer failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

PYTHON=${PYTHON:-python3}
DEVICE=${MABM_DEVICE:-cuda}
# A dry run may be on a slow machine, and does not try out the limits.
SLACK=$([ "$DEVICE" = cpu ] && echo 4 || echo 1)
PART=${1:-}
case $PART in
  first) PART_SECONDS=${MABM_SECONDS:-$((330 * SLACK))} ;;
  second) PART_SECONDS=${MABM_SECONDS:-$((300 * SLACK))} ;;
  *)
    echo "usage: benchmarks/gpu/run.sh first|second" >&2
    exit 2
    ;;
esac
OUT=$(mkdir -p "${OUT:-benchmarks/gpu/output}" && cd "${OUT:-benchmarks/gpu/output}" && pwd) || exit 1
HERE=benchmarks/gpu
CORES=$(nproc)
STAMP=build/gpu-build # the fingerprint of the ops that are built in place

# shellcheck source-path=SCRIPTDIR
source "$HERE/steps.sh"
rm -f "$OUT/$PART.json" "$OUT/$PART-table.txt"

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Other plugins that happen to be installed may warn, and a warning is an error here.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1

# within SECONDS: this limit, or less if the part has less left.
within() { least $(($1 * SLACK)) "$(left)"; }

# ---- The build --------------------------------------------------------------------------------

# The architecture of the GPU, to compile for.
capability() {
  [ "$DEVICE" = cpu ] && return
  "$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>>"$LOG"
}

# Identifies the state of sources, PyTorch and architectures.
fingerprint() {
  {
    find setup.py csrc -type f -print0 | sort -z | xargs -0 cat
    "$PYTHON" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda)'
    echo "$DEVICE ${TORCH_CUDA_ARCH_LIST:-}"
  } | sha256sum
}

loads() { "$PYTHON" -c "import mabm, sys; sys.exit('$DEVICE' not in mabm.backends())" >>"$LOG" 2>&1; }

build() {
  local architecture wanted force=()
  if ! architecture=$(capability); then
    fail build "$PYTHON has no PyTorch that sees a GPU"
    exit 1
  fi
  if [ -n "$architecture" ]; then
    export TORCH_CUDA_ARCH_LIST=$architecture
    force=(FORCE_CUDA=1)
    # The toolkit of the machine takes precedence over an nvcc on the PATH.
    if [ -z "${CUDA_HOME:-}" ] && [ -x /usr/local/cuda/bin/nvcc ]; then
      export CUDA_HOME=/usr/local/cuda
    fi
    # Lines for the sanitizer and profilers; registers and spills of each kernel for the log.
    export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -lineinfo -res-usage"
    { nvidia-smi; nvcc --version; } >>"$LOG" 2>&1
  fi
  wanted=$(fingerprint)
  if [ "$(cat $STAMP 2>/dev/null)" = "$wanted" ] && loads; then
    say build "unchanged${architecture:+, for $architecture}"
    return
  fi
  step build "$(within 150)" env "${force[@]}" MAX_JOBS="$CORES" "$PYTHON" setup.py build_ext --inplace
  if ((status == 0)) && loads; then
    mkdir -p build && echo "$wanted" >$STAMP
    say build "done in $took${architecture:+, for $architecture}"
  else
    fail build "$took"
    output | grep -aiE 'error|mabm:' | head -n 20 | quote
  fi
}

# ---- What runs on the build -------------------------------------------------------------------

smoke() {
  step smoke "$(within 40)" "$PYTHON" $HERE/smoke.py --device "$DEVICE" || return
  if ((status == 0)); then say smoke "$(output | grep -a . | tail -n 2 | head -n 1), $took"; else fail smoke "$took"; fi
  output | grep -aE '^(first|DIFFERS|ERROR)' | head -n 12 | quote
}

# measure SIZES LIMIT: sizes by the name that microbenchmarks.py has for them.
measure() {
  local sizes=$1 limit notes=() line
  limit=$(within "$2")
  while IFS= read -r line; do notes+=(--note "${line/: /=}"); done < <(grep -E '^[a-z]+: ' "$SUMMARY")
  step measurement "$limit" "$PYTHON" $HERE/microbenchmarks.py --device "$DEVICE" --sizes "$sizes" \
    --seconds $((limit - GRACE - 10)) --output "$OUT" --name "$PART" ${notes[@]+"${notes[@]}"} || return
  if ((status == 0)); then say measurement "done in $took"; else fail measurement "exit $status, $took"; fi
  if [ -e "$OUT/$PART-table.txt" ]; then
    sed -n '/^ceilings/,/^## /{/^## /d;p}' "$OUT/$PART-table.txt" | grep . | quote
  else
    output | tail -n 5 | quote
  fi
}

# counters LIMIT: the counters of each kernel by ncu.
counters() {
  local limit program ncu=()
  limit=$(within "$1")
  program=("$PYTHON" "$HERE/one_launch.py" --device "$DEVICE" --seconds "$((limit / 2))")
  if command -v ncu >/dev/null; then
    ncu=(ncu --clock-control none --profile-from-start off --csv --page details
      --kernel-name-base demangled --kernel-name regex:mabm --launch-count 60
      --section SpeedOfLight --section Occupancy --section LaunchStats
      --section MemoryWorkloadAnalysis)
  fi
  step counters "$limit" ${ncu[@]+"${ncu[@]}"} "${program[@]}" || return
  if ((${#ncu[@]} == 0 && status == 0)); then
    say counters "not run: there is no ncu (the calls for it ran in $took)"
  elif output | grep -aq ERR_NVGPUCTRPERM; then
    say counters "not run: this machine keeps its performance counters from users"
  elif ((${#ncu[@]} == 0)); then
    fail counters "exit $status, $took"
  else
    say counters "exit $status, $took"
    output | "$PYTHON" $HERE/counter_table.py 2>&1 | tee -a "$SUMMARY"
  fi
}

# gpu_tests NAME LIMIT ARGUMENTS...: tests with the marker, in four processes.
gpu_tests() {
  local name=$1 limit=$2 plugins=() counted
  shift 2
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    # In small portions, so that the first tests run first.
    plugins=(-p xdist -n "$(least 4 "$CORES")" --dist load --maxschedchunk 4)
    if "$PYTHON" -c 'import pytest_timeout' 2>/dev/null; then
      # A kernel that hangs cannot be interrupted: its process is ended and replaced.
      plugins+=(-p pytest_timeout --timeout 60 --timeout-method thread)
    fi
  fi
  step "$name" "$limit" env OMP_NUM_THREADS=$((CORES / 4 > 1 ? CORES / 4 : 1)) "$PYTHON" -m pytest \
    ${plugins[@]+"${plugins[@]}"} -p no:cacheprovider -m gpu -vv -rfEs --tb=short --durations=10 "$@" || return
  counted=$(output | grep -aE '^=+ .*(passed|failed|skipped|error|no tests).* =+$' | tail -n 1 | sed 's/^=* *//; s/ *=*$//')
  counted=${counted:-$(output | grep -ac PASSED) passed, $(output | grep -ac 'FAILED tests') failed, no summary}
  if ((status == 0)) && { [ "$DEVICE" = cpu ] || [[ $counted == *passed* ]]; }; then
    say "$name" "$counted"
  else
    fail "$name" "exit $status, $took; $counted"
  fi
  output | grep -aE '^(FAILED|ERROR) ' | head -n 25 | quote
  output | grep -aE '^SKIPPED ' | sort | uniq -c | sort -rn | head -n 5 | quote
}

find_sanitizer() {
  command -v compute-sanitizer && return
  local nvcc
  nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
  ls "$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer" 2>/dev/null
}

# sanitize TOOL LIMIT: golden files and sizes about those of warps and blocks, under a tool.
sanitize() {
  local tool=$1 limit found passed sanitizer filter=()
  local tests=(-p no:cacheprovider -m gpu -vv --tb=line -k "golden_files or sizes_about" tests/test_devices.py)
  limit=$(within "$2")
  if ! sanitizer=$(find_sanitizer); then
    step "$tool" "$limit" "$PYTHON" -m pytest --collect-only "${tests[@]}" || return
    if ((status == 0)); then
      say "$tool" "not run: there is no compute-sanitizer (for $(output | grep -ac '<Function'))"
    else
      fail "$tool" "there is no compute-sanitizer, and no test for it: exit $status"
    fi
    return
  fi
  if "$sanitizer" --help 2>&1 | grep -q -- --kernel-name; then
    filter=(--kernel-name kernel_substring=mabm) # and not the kernels of PyTorch
  fi
  # Without PyTorch's cache every tensor has its own allocation, whose bounds are known.
  step "$tool" "$limit" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 MABM_BRIEF_SECONDS=$((limit - GRACE - 10)) \
    PYTHONPATH="$PWD/$HERE:$PYTHONPATH" \
    "$sanitizer" --tool "$tool" --report-api-errors no --print-limit 20 --error-exitcode 86 \
    ${filter[@]+"${filter[@]}"} "$PYTHON" -m pytest -p brief_tests "${tests[@]}" || return
  found=$(output | grep -aoE '(ERROR|RACECHECK) SUMMARY: .*' | tail -n 1)
  passed=$(output | grep -acE '\bPASSED\b')
  if output | grep -aqiE 'device not supported|unable to (attach|find)|error 999'; then
    say "$tool" "not run: compute-sanitizer refuses this device"
  elif [ -n "$found" ] && ! [[ $found =~ SUMMARY:\ 0\  ]]; then
    fail "$tool" "${found#*: } ($passed tests passed, $took)"
    output | grep -aE '^=========' | head -n 12 | quote
  elif output | grep -aq FAILED || ((passed == 0)); then
    fail "$tool" "${found:-no summary}, $passed tests passed, exit $status, $took"
  else
    say "$tool" "${found:-no summary}, $passed tests passed, exit $status, $took"
  fi
}

training() {
  step batches "$(within 30)" "$PYTHON" $HERE/train_batch.py --device "$DEVICE" --seconds $((15 * SLACK)) || return
  if ((status == 0)); then say batches "done in $took"; else fail batches "exit $status, $took"; fi
  output | grep -aE '^(step|ERROR)' | quote
  gpu_tests training "$(left)" tests/train/test_gpu.py
}

# ---- The parts --------------------------------------------------------------------------------

sizes=$PART
if [ "$DEVICE" = cpu ]; then
  sizes=small-$PART
  export OMP_NUM_THREADS=1 # small inputs, on a machine that may be busy
fi
build
case $PART in
  first)
    smoke
    measure "$sizes" 90
    counters 50
    gpu_tests tests "$(left)" --ignore tests/train/test_gpu.py tests
    ;;
  second)
    sanitize memcheck 60
    sanitize racecheck 60
    sanitize synccheck 40
    measure "$sizes" 95
    training
    ;;
esac
say "$PART" "$((SECONDS - STARTED)) s in total; $([ $failed = 0 ] && echo 'nothing failed' || echo 'SOMETHING FAILED'); everything is in $OUT"
exit $failed
