"""What Triton's interpreter lacks."""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor
_create_dot = interpreter.InterpreterBuilder.create_dot
_create_fp_trunc = interpreter.InterpreterBuilder.create_fp_trunc


def allow_loop_bounds() -> None:
    """Let kernels loop to a bound that is known at run time only.

    The interpreter of Triton 3.6 holds such a number as an array of one element and converts it
    by ``int(array)``, which numpy 2.4 and later refuse.
    """

    def patch(tensor, scope):
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch


def multiply_bfloat16() -> None:
    """Let kernels round tiles to bfloat16 and multiply them.

    The interpreter of Triton 3.6 holds such numbers as their bits, cuts float32 off where a GPU
    rounds to the nearest, and multiplies the bits.
    """

    def create_fp_trunc(self, x, dtype):
        if (x.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return _create_fp_trunc(self, x, dtype)
        bits = x.data.view(np.uint32)
        bits = np.where(np.isnan(x.data), bits, bits + 0x7FFF + (bits >> 16 & 1))
        return interpreter.TensorHandle((bits >> 16).astype(np.uint16), tl.bfloat16)

    def create_dot(self, a, b, *rest):
        return _create_dot(self, _widened(a), _widened(b), *rest)

    interpreter.InterpreterBuilder.create_fp_trunc = create_fp_trunc
    interpreter.InterpreterBuilder.create_dot = create_dot


def _widened(x):
    if x.dtype.scalar != tl.bfloat16 or x.data.dtype != np.uint16:
        return x
    bits = x.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)
