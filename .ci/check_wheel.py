"""Checks a wheel with CUDA kernels: ``python .ci/check_wheel.py dist/unot_fast-*.whl``.

Needs a Python with torch, and binutils; no GPU.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

KERNELS = (
    *("sinkhorn_separable", "sinkhorn_stationary"),
    *("separable_lse", "stationary_lse", "normalise"),
)
SYSTEM = {"libc", "libm", "libdl", "librt", "libpthread", "libstdc++", "libgcc_s", "libgomp"}
IMPORT = """
import os
import unot_fast
assert unot_fast.__file__.startswith(os.getcwd()), unot_fast.__file__
found = unot_fast.backends()
assert found["cpu"].available, found
assert "compiled library missing" not in found["cuda"].detail, found
print(found)
"""


def main(path: Path) -> None:
    match = re.fullmatch(r"unot_fast-(.+)-cp310-abi3-(linux|manylinux\w*)_x86_64\.whl", path.name)
    assert match, f"{path.name} is not a wheel for every Python from 3.10 on"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        libraries = sorted(n for n in names if ".so" in n)
        assert libraries == ["unot_fast/_cpu.abi3.so", "unot_fast/_cuda.abi3.so"], libraries
        assert "unot_fast/kernels/sinkhorn_separable.py" in names

        info = f"unot_fast-{match[1]}.dist-info"
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        assert metadata["Version"] == match[1]
        assert metadata["License-Expression"] == "MIT"
        torch = [r for r in metadata.get_all("Requires-Dist") if re.match(r"torch\b(?!-)", r)]
        # No upper bound: no torch is ever replaced.
        assert len(torch) == 1, torch
        assert re.fullmatch(r"torch>=[\d.]+", torch[0]), torch
        assert any(n.startswith(f"{info}/licenses/") for n in names)

        wheel.extractall(folder)
        cuda = Path(folder, libraries[1])
        binary = cuda.read_bytes()
        assert b"sm_90a" in binary
        for kernel in KERNELS:
            assert f"{kernel}_kernel".encode() in binary, f"{kernel} is not in the fat binary"
        for library in libraries:
            needed = subprocess.check_output(["readelf", "-d", Path(folder, library)], text=True)
            for name in re.findall(r"NEEDED.*\[(.+?)\.so", needed):
                assert name in SYSTEM or name.startswith("ld-linux"), f"{library} needs {name}"
        subprocess.run(
            [sys.executable, "-c", IMPORT],
            env=os.environ | {"PYTHONPATH": folder},
            cwd=folder,
            check=True,
        )
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, as it should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
