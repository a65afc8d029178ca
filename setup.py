"""Builds the CPU kernels, once per instruction set.

The library has a plain C interface, loaded with ctypes. It links neither Python nor torch, so one
build serves every version of both, and building needs no torch.
"""

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = ["csrc/cpu/isa.cpp", "csrc/cpu/cpu.cpp"]
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


class BuildKernels(build_ext):
    def build_extension(self, ext):
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


setup(
    ext_modules=[
        Extension(
            "unot_fast._cpu",
            sources=SOURCES,
            depends=sorted(str(p) for p in Path("csrc").rglob("*.[hc]*")),
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
