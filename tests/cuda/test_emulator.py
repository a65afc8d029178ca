"""The cases of the CUDA kernels in the emulator: in processes of their own, where it is "cuda"."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("cases.py")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = ["-std=c++17", "-U_FORTIFY_SOURCE", "-fPIC", "-I", str(ROOT / "csrc" / "cuda")]
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "--param", "asan-stack=0", "-fno-sanitize=vptr"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs g++ on Linux"),
]


def build(library, *flags):
    sources = sorted(map(str, (ROOT / "csrc" / "cuda").glob("*.cu")))
    command = [COMPILER, *FLAGS, *flags, "-shared", "-x", "c++", *sources, "-o", str(library)]
    subprocess.run(command, check=True)


def watched(source, folder):
    """The object of a source whose every access races.cpp is told of."""
    made = folder / f"{source.stem}.o"
    flags = ["-O1", "-g", "-fsanitize=thread", "-c", "-x", "c++"]
    subprocess.run([COMPILER, *FLAGS, *flags, str(source), "-o", str(made)], check=True)
    return str(made)


def link_watched(target, sources, folder, *flags):
    objects = [watched(source, folder) for source in sources]
    finder = str(Path(__file__).with_name("races.cpp"))
    command = [COMPILER, *FLAGS, *WARNINGS, "-O2", *flags, *objects, finder, "-ldl"]
    subprocess.run([*command, "-o", str(target)], check=True)


def run(library, *arguments, cases=CASES, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases), *arguments],
        env=os.environ | {"UNOT_FAST_EMULATOR": str(library)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


def test_kernels_in_the_emulator(tmp_path):
    build(tmp_path / "emulator.so", "-O3", *WARNINGS)
    run(tmp_path / "emulator.so")
    rehearsal = ROOT / "tests" / "bench" / "rehearse_gpu_sinkhorn.py"
    run(tmp_path / "emulator.so", cases=rehearsal, TRITON_INTERPRET="1")


def test_kernels_have_no_races(tmp_path):
    """No two threads at one place, one of them writing, without a barrier between them."""
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    link_watched(tmp_path / "watched.so", sources, tmp_path, "-shared")
    run(
        tmp_path / "watched.so",
        "-k",
        "n2-m2 or n3-m3 or pyramid_in or in_any_range or log_sum or normalise or shift_in_clusters",
    )


def test_races_are_found(tmp_path):
    link_watched(tmp_path / "racing", [Path(__file__).with_name("racing.cpp")], tmp_path)
    race = "race: .* block {}, .*\nand .* block 1, "
    for words, found in (
        ("near block stays", None),
        ("near cluster stays", None),
        ("near none stays", race.format(1)),
        ("far cluster stays", None),
        ("far block stays", race.format(0)),
        ("far none stays", race.format(0)),
        ("far cluster leaves", "an access to a block that has ended"),
    ):
        command = [tmp_path / "racing", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) == (found is None), words
        assert re.search(found or "", done.stderr), words


def test_kernels_under_sanitizers(tmp_path):
    """No access beyond a tensor or the scratch, no undefined arithmetic."""
    libraries = [
        subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip("this compiler has no sanitizers")
    build(tmp_path / "sanitized.so", "-O1", *SANITIZERS)
    run(
        tmp_path / "sanitized.so",
        *("-k", "n4-m4 or n3-m3 or pyramid_in or log_sum or normalise or in_clusters"),
        LD_PRELOAD=" ".join(libraries),
        ASAN_OPTIONS="detect_leaks=0,alloc_dealloc_mismatch=0",
        UBSAN_OPTIONS="halt_on_error=1",
    )
