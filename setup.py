"""Builds the compiled kernels: for the CPU once per instruction set, for CUDA where nvcc is.

Both libraries have a plain C interface, loaded with ctypes. They link neither Python nor torch, and
the CUDA one has its runtime inside, so one build serves every version of Python and torch, loads
where there is no GPU, and building needs no torch and no GPU.

TORCH_CUDA_ARCH_LIST, default "9.0a", says what the CUDA kernels are built for.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-O3",
    "-std=c++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
]
ISAS = {"baseline": (16, [])}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS["avx2"] = (32, ["-march=x86-64-v3"])
    ISAS["avx512"] = (64, ["-march=x86-64-v4"])

NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC",
    "-cudart=static",
]


def find_nvcc():
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    found = shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")
    return found if sys.platform == "linux" else None


def architectures():
    """Flags of nvcc, and what they say: "9.0a", or "9.0+PTX" where the driver may translate."""
    wanted = re.split(r"[;\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or "9.0a")
    flags, names = [], []
    for name in filter(None, wanted):
        match = re.fullmatch(r"(\d+)\.(\d)(a?)(\+PTX)?", name)
        if match is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: cannot read {name!r}; an example is 9.0a")
        major, minor, own, ptx = match.groups()
        if int(major) < 9:
            print(f"unot_fast: the CUDA kernels need compute capability 9.0; {name} is left out")
            continue
        number = f"{major}{minor}{own}"
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        names.append(name)
    return flags, ";".join(names)


class BuildKernels(build_ext):
    def build_extension(self, ext):
        if ext.name.endswith("_cuda"):
            self.build_cuda(ext)
        else:
            self.build_cpu(ext)

    def build_cpu(self, ext):
        openmp = [] if sys.platform == "darwin" else ["-fopenmp"]

        def compile_for(isa):
            width, march = ISAS[isa]
            return self.compiler.compile(
                ["csrc/cpu/cpu.cpp"],
                output_dir=f"{self.build_temp}/{isa}",
                macros=[("ISA", isa), ("VECTOR_BYTES", str(width))],
                extra_postargs=FLAGS + openmp + march,
                depends=ext.depends,
            )

        objects = self.compiler.compile(
            ["csrc/cpu/isa.cpp"], output_dir=self.build_temp, extra_postargs=FLAGS + openmp
        )
        with ThreadPoolExecutor() as pool:
            objects += [o for found in pool.map(compile_for, ISAS) for o in found]
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_postargs=openmp + ["-s"] * (sys.platform == "linux"),
            target_lang="c++",
        )

    def build_cuda(self, ext):
        flags, names = architectures()
        nvcc = [find_nvcc(), *NVCC_FLAGS, *flags, f'-DARCHITECTURES="{names}"']
        temp, out = Path(self.build_temp, "cuda"), Path(self.get_ext_fullpath(ext.name))
        for folder in (temp, out.parent):
            folder.mkdir(parents=True, exist_ok=True)
        print(" ".join(nvcc))

        def compile_one(source):
            target = str(temp / f"{Path(source).stem}.o")
            subprocess.run([*nvcc, "-c", source, f"-o={target}"], check=True)
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, ext.sources))
        subprocess.run([*nvcc, "-shared", *objects, f"-o={out}"], check=True)


def extension(name, folder, sources):
    paths = [*Path("csrc").glob("*.h"), *Path("csrc", folder).iterdir()]
    return Extension(
        f"unot_fast.{name}",
        sources=sources,
        depends=sorted(str(p) for p in paths),
        py_limited_api=True,
    )


extensions = [extension("_cpu", "cpu", ["csrc/cpu/isa.cpp", "csrc/cpu/cpu.cpp"])]
if find_nvcc() and architectures()[1]:
    extensions.append(
        extension("_cuda", "cuda", sorted(str(p) for p in Path("csrc/cuda").glob("*.cu")))
    )
else:
    print("unot_fast: built without CUDA kernels, for want of nvcc or of an architecture for them")

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp310"}, "build_ext": {"parallel": 2}},
)
