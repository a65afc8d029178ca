#!/usr/bin/env bash
# Checks and measures the CUDA kernels on this machine, within ten minutes and without a network:
#   bash bench/gpu/run.sh [DIR]        results go to DIR, default bench/results/gpu-<name>
# Needs a Python with a CUDA torch and Triton; PYTHON names another than python3. Every stage has
# its own time limit, a failure does not stop the next, and what matters most comes first: the last
# stages get the time that is left. The summary comes at the end.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
unset TRITON_INTERPRET
deadline=580 # seconds from here; ten minutes less what ending takes

name=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))' 2>/dev/null)
out=${1:-bench/results/gpu-${name:-none}}
mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/run.log
rm -f "$out"/{spectral,results,potentials}.json # of an earlier run
: >"$log"
summary=()

stage() { # stage NAME SECONDS COMMAND...
    local title=$1 limit=$2 start=$SECONDS left=$((deadline - SECONDS)) code state
    shift 2
    limit=$((left < limit ? left : limit))
    if [ "$limit" -lt 5 ]; then
        skip "$title" "no time left"
        return 1
    fi
    echo "=== $title" | tee -a "$log"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
    case $code in
        0) state=ok ;;
        5) state="skipped: nothing to run" ;;
        124 | 137) state="FAILED: over its limit of $limit s" ;;
        *) state="FAILED: exit status $code" ;;
    esac
    summary+=("| $title | $state | $((SECONDS - start)) s |")
    return "$code"
}

skip() { # skip NAME REASON
    echo "=== $1: skipped: $2" | tee -a "$log"
    summary+=("| $1 | skipped: $2 | |")
}

# The project's filter of warnings names pytest-benchmark, which may be absent.
pytest=(-o filterwarnings= -p no:cacheprovider --maxfail=8)
has() { "$PYTHON" -c "import $1" 2>/dev/null; }

tests() { # tests NAME SECONDS FILES OPTIONS...
    local title=$1 limit=$2
    shift 2
    if has pytest; then
        stage "$title" "$limit" "$PYTHON" -m pytest "$@" "${pytest[@]}" -rs
    else
        skip "$title" "pytest is not installed"
    fi
}

describe() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv || true
    "$PYTHON" - <<'PY'
import importlib, sys
print("python", sys.version.split()[0])
for module in ("torch", "triton", "setuptools", "numpy", "scipy", "matplotlib", "pytest", "geomloss",
               "pykeops", "neuralop"):
    try:
        print(module, importlib.import_module(module).__version__)
    except Exception as error:
        print(module, "absent:", error)
import torch
print("cuda", torch.version.cuda, torch.cuda.is_available())
assert torch.cuda.is_available(), "no CUDA device is visible to torch"
PY
}

# In place, for this device alone. Where it fails, libraries that were there before may do.
build() {
    TORCH_CUDA_ARCH_LIST=$("$PYTHON" -c 'import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}" + "a" * (major == 9))') || return
    export TORCH_CUDA_ARCH_LIST
    "$PYTHON" setup.py -q build_ext --inplace
}

usable() {
    "$PYTHON" -c 'import unot_fast, unot_fast.kernels
backends = unot_fast.backends()
print(backends)
assert backends["cuda"].available and backends["triton"].available'
}

stage "machine" 20 bash -c "$(declare -f describe); PYTHON='$PYTHON' describe"
stage "build" 110 bash -c "$(declare -f build); PYTHON='$PYTHON' build"
if [ ! -e unot_fast/kernels ]; then # as an installation has them
    ln -s ../kernels unot_fast/kernels
    trap 'rm unot_fast/kernels' EXIT
fi
stage "import" 20 bash -c "$(declare -f usable); PYTHON='$PYTHON' usable"

tests "CUDA kernel tests" 75 tests/gpu/test_cuda.py -m gpu
# Compiling takes these most of their time, and there are processors for two halves.
halves='"$@" -k synthesis & "$@" -k "not synthesis"; code=$?; wait $! && exit $code'
if has pytest; then
    stage "spectral kernel tests" 85 bash -c "$halves" halves "$PYTHON" -m pytest \
        tests/gpu/test_spectral.py -m gpu "${pytest[@]}" -rs
else
    skip "spectral kernel tests" "pytest is not installed"
fi
stage "spectral benchmarks" 95 "$PYTHON" -m bench.gpu.bench_spectral \
    -o "$out/spectral.json" --seconds 65
stage "benchmarks" 90 "$PYTHON" -m bench.gpu.bench_sinkhorn -o "$out/results.json" --seconds 75
stage "potential benchmarks" 40 "$PYTHON" -m bench.gpu.bench_potentials \
    -o "$out/potentials.json" --seconds 25
results=()
for file in spectral results potentials; do
    [ -s "$out/$file.json" ] || continue
    results+=("$out/$file.json")
    stage "report of $file" 12 "$PYTHON" -m bench.report "$out/$file.json" -o "$out/$file"
done
if [ ${#results[@]} -gt 0 ]; then
    stage "ledger" 8 "$PYTHON" -m bench.gpu.ledger "${results[@]}" -o "$out/LEDGER.md"
else
    skip "reports, ledger" "no results"
fi

tests "network and training tests" 60 tests/gpu/test_training.py -m gpu
stage "training" 60 "$PYTHON" -m bench.gpu.train -o "$out" --seconds 40
tests "Triton kernel tests" 70 tests/gpu/test_triton.py -m gpu
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ] && has pytest; then
    check() { # check TOOL FILE TESTS
        stage "$1 of $2" 50 "$sanitizer" --tool "$1" --error-exitcode 9 --target-processes all \
            "$PYTHON" -m pytest "tests/gpu/$2.py" -m gpu "${pytest[@]}" -k "$3"
    }
    check memcheck test_spectral "odd or lines"
    check memcheck test_cuda "clusters or pyramid_in_the_log_domain"
    check racecheck test_cuda "clusters or pyramid_in_the_log_domain"
else
    skip "memcheck, racecheck" "no compute-sanitizer, or no pytest"
fi
tests "other tests marked gpu" 40 tests --ignore=tests/gpu --ignore=tests/kernels -m gpu
tests "kernel tests" 90 tests/kernels

{
    echo "| stage | outcome | time |"
    echo "|---|---|---|"
    printf '%s\n' "${summary[@]}"
} | tee "$out/summary.md"
case "${summary[*]}" in *FAILED*) exit 1 ;; esac
