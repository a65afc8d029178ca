"""What Triton's interpreter lacks."""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor
_create_dot = interpreter.InterpreterBuilder.create_dot


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
    """Let kernels multiply tiles of bfloat16, which Triton 3.6 holds as their bits."""

    def create_dot(self, a, b, *rest):
        return _create_dot(self, _widened(a), _widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def _widened(x):
    if x.dtype.scalar != tl.bfloat16:
        return x
    bits = x.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)
