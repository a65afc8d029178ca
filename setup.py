"""Builds the CPU kernels: one source per operator, compiled once per instruction set.

The library has a plain C interface, loaded with ctypes. It links neither Python nor torch, so one
build serves every version of both, and building needs no torch.
"""

import platform
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = ["csrc/sinkhorn_separable_cpu.cpp", "csrc/separable_lse_cpu.cpp"]
HEADERS = ["csrc/vector.h", "csrc/gemm.h", "csrc/separable.h"]
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
        objects = self.compiler.compile(
            ["csrc/isa.cpp"], output_dir=self.build_temp, extra_postargs=FLAGS + openmp
        )
        for isa, (width, march) in ISAS.items():
            objects += self.compiler.compile(
                SOURCES,
                output_dir=f"{self.build_temp}/{isa}",
                macros=[("ISA", isa), ("VECTOR_BYTES", str(width))],
                extra_postargs=FLAGS + openmp + march,
                depends=HEADERS,
            )
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
            sources=["csrc/isa.cpp", *SOURCES],
            depends=HEADERS,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
