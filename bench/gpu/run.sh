#!/usr/bin/env bash
# Checks and measures the CUDA kernels on this machine, within ten minutes and without a network:
#   bash bench/gpu/run.sh [DIR]        results go to DIR, default bench/results/gpu-<name>
# Needs a Python with a CUDA torch and Triton; PYTHON names another than python3. Every stage has
# its own time limit and a failure does not stop the next; the summary comes last.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
unset TRITON_INTERPRET

name=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))' 2>/dev/null)
out=${1:-bench/results/gpu-${name:-none}}
mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/run.log
: >"$log"
summary=()
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

stage() { # stage NAME SECONDS COMMAND...
    local title=$1 limit=$2 start=$SECONDS code state
    shift 2
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

has() { "$PYTHON" -c "import $1" 2>/dev/null; }

describe() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv || true
    "$PYTHON" - <<'PY'
import importlib, sys
print("python", sys.version.split()[0])
for module in ("torch", "triton", "numpy", "scipy", "matplotlib", "pytest", "geomloss", "pykeops"):
    try:
        print(module, importlib.import_module(module).__version__)
    except Exception as error:
        print(module, "absent:", error)
import torch
print("cuda", torch.version.cuda, torch.cuda.is_available())
assert torch.cuda.is_available(), "no CUDA device is visible to torch"
PY
}

build() {
    # An environment that sees the installed packages, so that nothing of the machine's changes.
    "$PYTHON" -m venv --system-site-packages --without-pip "$scratch/venv" || return
    "$scratch/venv/bin/python" -m pip install -q --no-build-isolation --no-deps --no-index -e .
}

usable() { "$PYTHON" -c 'import unot_fast, unot_fast.kernels; print(unot_fast.backends())'; }

stage "machine" 20 bash -c "$(declare -f describe); PYTHON='$PYTHON' describe"
if stage "build" 120 bash -c "$(declare -f build); PYTHON='$PYTHON' scratch='$scratch' build"; then
    PYTHON=$scratch/venv/bin/python
fi
stage "import" 20 bash -c "$(declare -f usable); PYTHON='$PYTHON' usable"

if has pytest; then
    stage "CUDA kernel tests" 90 "$PYTHON" -m pytest tests/gpu/test_cuda.py -m gpu \
        -p no:cacheprovider --maxfail=8 -rs
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    if [ -x "$sanitizer" ]; then
        for tool in memcheck racecheck; do
            stage "$tool" 50 "$sanitizer" --tool "$tool" --error-exitcode 9 --target-processes all \
                "$PYTHON" -m pytest tests/gpu/test_cuda.py -m gpu -p no:cacheprovider \
                -k "clusters or pyramid_in_the_log_domain"
        done
    else
        skip "memcheck, racecheck" "no compute-sanitizer"
    fi
    stage "Triton kernel tests" 70 "$PYTHON" -m pytest tests/gpu/test_triton.py -m gpu \
        -p no:cacheprovider --maxfail=8 -rs
    if [ -d tests/kernels ]; then
        stage "kernel tests" 40 "$PYTHON" -m pytest tests/kernels -p no:cacheprovider --maxfail=8 -rs
    else
        skip "kernel tests" "tests/kernels is not there"
    fi
    stage "other tests marked gpu" 20 "$PYTHON" -m pytest tests --ignore=tests/gpu \
        --ignore=tests/kernels -m gpu -p no:cacheprovider --maxfail=8 -rs
else
    skip "CUDA kernel tests" "pytest is not installed"
    skip "Triton kernel tests" "pytest is not installed"
    skip "kernel tests" "pytest is not installed"
    skip "other tests marked gpu" "pytest is not installed"
fi

stage "benchmarks" 140 "$PYTHON" -m bench.gpu.bench_sinkhorn -o "$out/results.json" --seconds 110
if [ -s "$out/results.json" ]; then
    stage "report" 25 "$PYTHON" -m bench.report "$out/results.json" -o "$out"
    stage "ledger" 10 "$PYTHON" -m bench.gpu.ledger "$out/results.json" -o "$out/LEDGER.md"
else
    skip "report" "no results"
    skip "ledger" "no results"
fi

{
    echo "| stage | outcome | time |"
    echo "|---|---|---|"
    printf '%s\n' "${summary[@]}"
} | tee "$out/summary.md"
case "${summary[*]}" in *FAILED*) exit 1 ;; esac
