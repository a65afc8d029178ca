import pytest
import torch

from tests.ops.spectral_calls import BACKENDS, CALLS, OPS, converted
from unot_fast.ops.shapes import expect_alike


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", CALLS)
def test_one_dtype_single_or_double(operator, backend):
    call, arguments = getattr(OPS, operator), CALLS[operator]
    for dtype in (torch.bfloat16, torch.float16, torch.int64):
        with pytest.raises(TypeError, match=f"{operator}: [cx] must be float32 or float64; got"):
            call(*converted(arguments, dtype), backend)
    for k, x in enumerate(arguments):
        if type(x) is not bool:
            mixed = *arguments[:k], converted(x, torch.float32), *arguments[k + 1 :]
            with pytest.raises(TypeError, match=rf"{operator}: \w+ must have the dtype of [cx]"):
                call(*mixed, backend)


def test_one_device():
    with pytest.raises(ValueError, match="name: b must be where a is, on cpu; got meta"):
        expect_alike("name", a=torch.zeros(2), none=None, b=torch.zeros(2, device="meta"))
    with pytest.raises(ValueError, match="name: table must be where a is, on meta; got cpu"):
        expect_alike("name", [torch.zeros(2)], a=torch.zeros(2, device="meta"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", CALLS)
def test_autocast_changes_nothing(operator, backend):
    call, arguments = getattr(OPS, operator), converted(CALLS[operator], torch.bfloat16)
    expected = call(*converted(arguments, torch.float32), backend)
    with torch.autocast("cpu", torch.bfloat16):
        found = call(*arguments, backend)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
