"""The package as a whole: what imports what, and what an installation contains."""

import ast
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unot_fast

ROOT = Path(__file__).parents[1]
# Each layer may import those after it. Kernels and the reference know nothing of the package.
LAYERS = [
    "cli",
    "evaluation",
    "experiments",
    "neural_ot",
    "training",
    "conjugate",
    "models",
    "solver",
    "geometry",
    "spectral",
    "ops",
    "reference",
    "kernels",
]
ALLOWED = {
    "cli": {
        "cli",
        "evaluation",
        "experiments",
        "neural_ot",
        "training",
        "models",
        "solver",
        "geometry",
        "ops",
    },
    "evaluation": {"evaluation", "models", "solver", "geometry", "ops"},
    "training": {"training", "models", "solver", "geometry"},
    "experiments": {"experiments", "neural_ot", "models"},
    "neural_ot": {"neural_ot", "training", "conjugate", "models", "ops"},
    "conjugate": {"conjugate", "models", "ops"},
    "solver": {"solver", "geometry", "ops"},
    "models": {"models", "solver", "geometry", "spectral", "ops"},
    "geometry": {"geometry"},
    "spectral": {"spectral", "ops"},
    "ops": {"ops"},
    "reference": {"reference"},
    "kernels": {"kernels"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer):
    folder = ROOT / ("kernels" if layer == "kernels" else f"unot_fast/{layer}")
    for path in folder.rglob("*.py"):
        for name in imports(path):
            if name.startswith("unot_fast."):
                target = name.split(".")[1]
                if target == "_version":
                    continue
                assert target in ALLOWED[layer], f"{path.relative_to(ROOT)} imports {name}"


def test_import_is_light():
    """No optional or heavy package comes with `import unot_fast`."""
    heavy = ["triton", "matplotlib", "PIL", "click", "tqdm", "scipy", "neuralop", "jax"]
    script = (
        "import sys, torch; before = set(sys.modules); import unot_fast;"
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_versions_agree():
    assert importlib.metadata.version("unot-fast") == unot_fast.__version__
    assert f"## {unot_fast.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_listed():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    with open(ROOT / "pyproject.toml", "rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in (ROOT / "unot_fast").rglob("__init__.py")
    }
    assert listed == found | {"unot_fast.kernels"}


def test_kernels_install_inside_the_package():
    import unot_fast.kernels

    assert unot_fast.kernels.__name__ == "unot_fast.kernels"


@pytest.mark.slow
def test_a_wheel_holds_everything_and_runs(tmp_path):
    """Build a wheel for the CPU, unpack it elsewhere, solve with it from there."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    without_cuda = os.environ | {"TORCH_CUDA_ARCH_LIST": "8.0"}  # the kernels need 9.0
    subprocess.run([*build, "-w", str(tmp_path), str(ROOT)], env=without_cuda, check=True)
    (wheel,) = tmp_path.glob("unot_fast-*.whl")
    assert "abi3" in wheel.name
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
    )
    names = {str(p.relative_to(site)) for p in site.rglob("*")}
    assert "unot_fast/kernels/sinkhorn_separable.py" in names
    assert "unot_fast/models/pretrained/sqeuclidean.safetensors" in names
    assert any(n.startswith("unot_fast/_cpu") for n in names)
    assert not any(n.startswith("unot_fast/_cuda") for n in names)
    assert not any(n.startswith(("kernels", "torch", "tests", "bench")) for n in names)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r});"
        "import torch, unot_fast, unot_fast.kernels;"
        f"assert unot_fast.__file__.startswith({str(site)!r});"
        "assert unot_fast.kernels.__file__.startswith(unot_fast.__path__[0]);"
        "a = torch.rand(2, 9, 9);"
        "print(unot_fast.sinkhorn(a, a.flip(0), unot_fast.Grid((9, 9)), .1, normalize=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "2 converged" in done.stdout
