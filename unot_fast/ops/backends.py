"""Which implementations can run here, and why not where they cannot."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from unot_fast.ops.compiling import constant_when_compiled


@dataclass(frozen=True)
class Backend:
    """One way to run the operators of the package.

    Attributes
    ----------
    name : str
        What to pass as ``backend=``.
    available : bool
        Whether it can run in this process.
    devices : tuple of str
        Device types of the tensors it takes.
    detail : str
        What it will use, or why it cannot run.
    """

    name: str
    available: bool
    devices: tuple[str, ...]
    detail: str

    def __str__(self) -> str:
        mark = "yes" if self.available else "no"
        return f"{self.name:<10} {mark:<4} {'/'.join(self.devices):<10} {self.detail}"


class Backends(dict[str, Backend]):
    """Backends by name; printing it gives a table."""

    def __str__(self) -> str:
        return "\n".join(["backend    runs on         detail", *map(str, self.values())])

    __repr__ = __str__


@functools.cache
def cpu_library() -> ctypes.CDLL | None:
    """The compiled CPU kernels, or None when the package was installed without them."""
    spec = importlib.util.find_spec("unot_fast._cpu")
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(str(Path(spec.origin)))
    library.unot_fast_isa.restype = ctypes.c_char_p
    return library


@functools.cache
def cuda_library() -> ctypes.CDLL | None:
    """The compiled CUDA kernels, or None when the package was installed without them.

    The environment variable ``UNOT_FAST_EMULATOR`` names a library that runs the same kernels on
    the host instead, for tests.
    """
    path = os.environ.get("UNOT_FAST_EMULATOR")
    if path is None:
        spec = importlib.util.find_spec("unot_fast._cuda")
        if spec is None or spec.origin is None:
            return None
        path = spec.origin
    library = ctypes.CDLL(path)
    library.unot_fast_error.restype = ctypes.c_char_p
    library.unot_fast_architectures.restype = ctypes.c_char_p
    return library


@functools.cache
def _widest_isa() -> str:
    return cpu_library().unot_fast_isa().decode()


def cpu_isa() -> str:
    """Instruction set of the CPU kernels: ``avx512``, ``avx2`` or ``baseline``.

    The environment variable ``UNOT_FAST_ISA`` forces a narrower one.
    """
    best = _widest_isa()
    wanted = os.environ.get("UNOT_FAST_ISA", best)
    order = ("baseline", "avx2", "avx512")
    if wanted not in order:
        raise ValueError(f"UNOT_FAST_ISA must be one of {order}; got {wanted!r}")
    return min(best, wanted, key=order.index)


ROUNDINGS = ("exact", "vectors", "tiles")  # in the order of csrc/cpu/products.h


def cpu_rounding() -> str:
    """How CPU kernels of Fourier layers multiply float32: ``"exact"``, or as bfloat16.

    They do where torch's own products may, after ``torch.set_float32_matmul_precision("medium")``
    or ``torch.backends.mkldnn.matmul.fp32_precision = "bf16"``, and the processor has instructions
    for it: ``"tiles"`` (AMX) or else ``"vectors"`` (AVX512-BF16, from AMD).
    """
    # Of torch's two ways to ask, the one that still answers after it was used to set.
    if cpu_library() is None or torch.backends.mkldnn.matmul.fp32_precision != "bf16":
        return "exact"
    return _bfloat16(cpu_isa())


@functools.cache
def _bfloat16(isa: str) -> str:
    return ROUNDINGS[cpu_library().unot_fast_bfloat16() if isa == "avx512" else 0]


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _cpu() -> Backend:
    library = cpu_library()
    if library is None:
        detail = "compiled library missing; reinstall the package with a C++17 compiler"
        return Backend("cpu", False, ("cpu",), detail)
    return _compiled(cpu_isa(), bool(library.unot_fast_openmp()), cpu_rounding())


@functools.cache
def _compiled(isa: str, openmp: bool, rounding: str) -> Backend:
    best = _bfloat16(isa)
    request = f" and bfloat16 in {best} on request" if best != "exact" else ""
    parts = ["compiled kernels", isa + request]
    parts.append("OpenMP" if openmp else "no OpenMP: one thread")
    if rounding != "exact":
        parts.append("Fourier layers multiply as bfloat16")
    return Backend("cpu", True, ("cpu",), ", ".join(parts))


def _triton() -> Backend:
    if not _installed("triton"):
        return Backend("triton", False, ("cuda",), "triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Backend("triton", True, ("cpu",), "kernels in Triton's interpreter (slow)")
    if not torch.cuda.is_available():
        return Backend("triton", False, ("cuda",), "no CUDA device is visible to torch")
    return Backend("triton", True, ("cuda",), f"kernels on {torch.cuda.get_device_name()}")


def _cuda() -> Backend:
    library = cuda_library()
    if library is None:
        detail = "compiled library missing; reinstall the package where nvcc is"
        return Backend("cuda", False, ("cuda",), detail)
    architectures = library.unot_fast_architectures().decode()
    if architectures == "emulator":
        return Backend("cuda", True, ("cpu",), "kernels in the emulator on the host (slow)")
    if not torch.cuda.is_available():
        return Backend("cuda", False, ("cuda",), "no CUDA device is visible to torch")
    capability = torch.cuda.get_device_capability()
    if not any(_runs_on(capability, name) for name in architectures.split(";")):
        own = ".".join(map(str, capability))
        detail = f"kernels are built for {architectures}; this device has compute capability {own}"
        return Backend("cuda", False, ("cuda",), detail)
    return Backend("cuda", True, ("cuda",), f"kernels on {torch.cuda.get_device_name()}")


def _runs_on(capability: tuple[int, int], architecture: str) -> bool:
    """Whether code for e.g. ``9.0a`` (that capability only) or ``9.0+PTX`` runs on a device."""
    number, _, ptx = architecture.partition("+")
    major, minor = (int(part) for part in number.rstrip("a").split("."))
    if number.endswith("a"):
        return capability == (major, minor)
    return capability >= (major, minor) and (bool(ptx) or capability[0] == major)


def _reference() -> Backend:
    detail = "readable dense float64, for checks on small problems"
    return Backend("reference", True, ("cpu", "cuda"), detail)


def _torch() -> Backend:
    detail = "matrix products of torch, for spectral layers"
    return Backend("torch", True, ("cpu", "cuda"), detail)


_PROBES = {
    "cpu": _cpu,
    "cuda": _cuda,
    "triton": _triton,
    "torch": _torch,
    "reference": _reference,
}


def backends() -> Backends:
    """List the backends, whether each can run here, and why.

    Returns
    -------
    Backends
        A dictionary from name to `Backend`; its string is a table.

    Examples
    --------
    >>> import unot_fast
    >>> unot_fast.backends()["reference"].available
    True
    """
    return Backends({name: probe() for name, probe in _PROBES.items()})


def available(name: str) -> bool:
    """Whether a backend can run in this process."""
    return _PROBES[name]().available


def implementation(operator: str, backend: str, modules: dict[str, str]) -> Callable:
    """The function of an operator in the module of a backend.

    Raises
    ------
    RuntimeError
        The backend has none.
    """
    if backend not in modules:
        raise RuntimeError(
            f"backend {backend!r} has no {operator} yet; {', '.join(modules)} can run it"
        )
    return getattr(importlib.import_module(modules[backend]), operator)


@constant_when_compiled
def resolve(backend: str, device: torch.device) -> str:
    """Name of the backend to run for tensors on ``device``.

    Raises
    ------
    ValueError
        ``backend`` is unknown.
    RuntimeError
        The backend asked for, or the only fast one for this device, cannot run here.
    """
    if backend == "auto":
        on_cuda = "cuda" if available("cuda") else "triton"
        backend = {"cpu": "cpu", "cuda": on_cuda}.get(device.type, "reference")
    elif backend not in _PROBES:
        raise ValueError(f"backend must be 'auto' or one of {list(_PROBES)}; got {backend!r}")
    chosen = _PROBES[backend]()
    if not chosen.available:
        raise RuntimeError(
            f"backend {backend!r} cannot run here: {chosen.detail}. backend='reference' always can."
        )
    if backend != "reference" and device.type not in chosen.devices:
        raise RuntimeError(
            f"backend {backend!r} takes tensors on {' or '.join(chosen.devices)}; "
            f"these are on {device.type}"
        )
    return backend
