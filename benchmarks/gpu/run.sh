#!/usr/bin/env bash
# One command for a machine with an NVIDIA GPU: builds in place, then runs every test, the tests of
# the GPU under compute-sanitizer, and the microbenchmarks, inside ten minutes and without network.
#
#   [MABM_COMMIT=...] [OUT=folder] benchmarks/gpu/run.sh [arguments of microbenchmarks.py]
#
#   PYTHON           an interpreter with a CUDA build of PyTorch >= 2.10, setuptools, ninja, pytest,
#                    hypothesis and scikit-learn (python3)
#   OUT              where logs and results go (benchmarks/gpu/output)
#   MABM_COMMIT      what the results say was measured, where there is no .git
#   MABM_SECONDS     for everything together (570)
#   MABM_DEVICE=cpu  tries this script out where there is no GPU
#
# Every phase has a limit of its own and a log, and none stops the next. Exits with 1 if the build, a
# test, the sanitizer or a check of the benchmarks failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-benchmarks/gpu/output}" && cd "${OUT:-benchmarks/gpu/output}" && pwd) || exit 1
DEVICE=${MABM_DEVICE:-cuda}
TOTAL=${MABM_SECONDS:-570}
CORES=$(nproc)
# What the benchmarks keep for themselves, however long the rest takes.
BENCHMARK_SECONDS=170

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Plugins that happen to be installed warn, and here a warning is an error; xdist alone is wanted.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
rm -f "$OUT"/{build,tests,sanitizer,benchmarks}.log "$OUT"/{results.json,table.txt,profile.txt}

failed=0
notes=() # a line a phase

# The least of some numbers.
least() { printf '%s\n' "$@" | sort -n | head -n 1; }

# Writes down what came of a phase.
note() {
  notes+=("$1=$2")
  echo "$1: $2"
}

# Runs a command as a phase, with a limit in seconds, its output added to a log. Sets `status`, and
# `took` to how long it was or what came of it.
status=0
took=
phase() {
  local log=$1 limit=$2 start=$SECONDS
  shift 2
  if ((limit < 5)); then
    status=124 took="no time left"
    return
  fi
  # An interrupt first, at which pytest still sums up.
  timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$OUT/$log" 2>&1
  status=$?
  took="$((SECONDS - start)) s"
  if ((status == 124 || status == 137)); then
    took="CUT OFF after $took"
  fi
}

build() {
  local force=0
  if [ "$DEVICE" = cuda ]; then
    force=1
    TORCH_CUDA_ARCH_LIST=$("$PYTHON" -c \
      'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || {
      note build "not run: $PYTHON has no PyTorch that sees a GPU"
      exit 1
    }
    export TORCH_CUDA_ARCH_LIST
    # An nvcc on the PATH may be a link into the toolkit, or a script outside of it.
    if [ -z "${CUDA_HOME:-}" ] && [ -x /usr/local/cuda/bin/nvcc ]; then
      export CUDA_HOME=/usr/local/cuda
    fi
    # Lines for the sanitizer and profilers; registers and spills of each kernel for the log.
    export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -lineinfo -res-usage"
    { nvidia-smi; nvcc --version; } >>"$OUT/build.log" 2>&1
  fi
  phase build.log 240 env FORCE_CUDA=$force MAX_JOBS="$CORES" "$PYTHON" setup.py build_ext --inplace
  if ((status == 0)); then
    "$PYTHON" -c "import mabm, sys; sys.exit('$DEVICE' not in mabm.backends())" \
      >>"$OUT/build.log" 2>&1
    status=$?
  fi
  if ((status == 0)); then
    note build "done in $took${TORCH_CUDA_ARCH_LIST:+, for $TORCH_CUDA_ARCH_LIST}"
  else
    failed=1
    note build "FAILED ($took)"
    grep -aiE 'error|mabm:' "$OUT/build.log" | head -n 20
  fi
}

run_tests() {
  local workers=() counted gpu
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    workers=(-p xdist -n "$(least "$CORES" 8)")
  fi
  phase tests.log "$(least 240 $((TOTAL - SECONDS - BENCHMARK_SECONDS - 40)))" \
    env OMP_NUM_THREADS=2 "$PYTHON" -m pytest ${workers[@]+"${workers[@]}"} -p no:cacheprovider \
    -vv -rfE --tb=short --durations=15 tests
  counted=$(grep -aE '^=+ .*(passed|failed|error|no tests).* =+$' "$OUT/tests.log" | tail -n 1 |
    sed 's/^=* *//; s/ *=*$//')
  gpu=$(grep -acE 'PASSED.*[[-]cuda|[[-]cuda.*PASSED' "$OUT/tests.log")
  if ((status == 0)); then
    note tests "${counted:-passed}, $gpu on the GPU by name"
  else
    failed=1
    note tests "FAILED ($took): ${counted:-$(grep -ac PASSED "$OUT/tests.log") passed, no summary}, $gpu on the GPU by name"
    grep -aE '^(FAILED|ERROR) ' "$OUT/tests.log" | cut -c 1-200 | head -n 25
  fi
}

find_sanitizer() {
  command -v compute-sanitizer && return
  local nvcc
  nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
  ls "$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer" 2>/dev/null
}

sanitize() {
  local tool=$1 limit=$2 sanitizer filter=() found tests
  if ! sanitizer=$(find_sanitizer); then
    note "$tool" "not run: there is no compute-sanitizer"
    echo "$tool not run: there is no compute-sanitizer" >>"$OUT/sanitizer.log"
    return
  fi
  if "$sanitizer" --help 2>&1 | grep -q -- --kernel-name; then
    filter=(--kernel-name kernel_substring=mabm) # and not the kernels of PyTorch
  fi
  echo "==== $tool" >>"$OUT/sanitizer.log"
  # Without PyTorch's cache every tensor is an allocation of its own, whose ends are known.
  phase sanitizer.log "$limit" \
    env PYTORCH_NO_CUDA_MEMORY_CACHING=1 MABM_BRIEF_SECONDS=$((limit - 12)) \
    PYTHONPATH="$PWD/benchmarks/gpu:$PYTHONPATH" \
    "$sanitizer" --tool "$tool" --report-api-errors no --print-limit 20 --error-exitcode 86 \
    ${filter[@]+"${filter[@]}"} "$PYTHON" -m pytest -p brief_tests -p no:cacheprovider -vv --tb=line \
    -k "${MABM_SANITIZED:-cuda and not compile and not opcheck}" \
    tests/test_{jaccard,encoding,neighbors,ranking,clustering}.py
  sed -n "/^==== $tool/,\$p" "$OUT/sanitizer.log" >"$OUT/.part"
  found=$(grep -aoE '(ERROR|RACECHECK) SUMMARY: .*' "$OUT/.part" | tail -n 1)
  tests=$(grep -acE '\bPASSED\b' "$OUT/.part")
  if grep -aqiE 'device not supported|unable to (attach|find)|error 999' "$OUT/.part"; then
    note "$tool" "not run: compute-sanitizer refuses this device"
  elif [ -n "$found" ] && ! [[ $found =~ SUMMARY:\ 0\  ]]; then
    failed=1
    note "$tool" "FOUND ${found#*: } ($tests tests passed, $took)"
    grep -aE '^=========' "$OUT/.part" | head -n 12
  elif [ -n "$found" ]; then
    note "$tool" "${found#*: }, $tests tests passed, exit $status, $took"
  else
    note "$tool" "no summary, $tests tests passed, exit $status, $took: see sanitizer.log"
  fi
  rm -f "$OUT/.part"
}

run_benchmarks() {
  local given=() left=$((TOTAL - SECONDS - 20)) item
  for item in "${notes[@]}"; do
    given+=(--note "$item")
  done
  phase benchmarks.log $((left + 15)) \
    "$PYTHON" benchmarks/gpu/microbenchmarks.py --device "$DEVICE" --seconds "$left" \
    --output "$OUT" "${given[@]}" "$@"
  if ((status == 0)); then
    note benchmarks "done in $took"
  else
    failed=1
    note benchmarks "FAILED (exit $status, $took)"
    grep -aE 'Error|BROKEN|ERROR' "$OUT/benchmarks.log" "$OUT/table.txt" 2>/dev/null |
      cut -c 1-300 | tail -n 15
  fi
}

build
run_tests
for tool in memcheck racecheck; do
  sanitize $tool "$(least 45 $((TOTAL - SECONDS - BENCHMARK_SECONDS)))"
done
run_benchmarks "$@"

echo
if [ -e "$OUT/table.txt" ]; then
  sed '/^## /,$d' "$OUT/table.txt"
fi
echo "benchmarks: ${notes[-1]#*=}; $SECONDS s in all; everything is in $OUT"
exit $failed
