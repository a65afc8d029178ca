"""Triton's interpreter under numpy >= 2.4."""

from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor


def allow_loop_bounds() -> None:
    """Let kernels loop to a bound that is known at run time only.

    The interpreter of Triton 3.6 holds such a number as an array of one element and converts it
    by ``int(array)``, which numpy 2.4 and later refuse.
    """

    def patch(tensor, scope):
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch
