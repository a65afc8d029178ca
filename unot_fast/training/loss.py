"""The distance between potentials."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from unot_fast.models.inputs import centred


def potential_loss(
    prediction: Tensor, target: Tensor, mass: Tensor, huber: float | None = None
) -> Tensor:
    r"""Mean squared difference of two potentials, constants aside.

    Half of the weight is spread evenly, since the potentials are defined on empty pixels too, and
    half as the mass, which is what transport sees.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, m_1, m_2)
        In units of epsilon.
    mass : Tensor, shape (B, m_1, m_2)
        Of total 1.
    huber : float, optional
        Differences d above it count as ``huber * (2 |d| - huber)`` instead of :math:`d^2`.

    Returns
    -------
    Tensor, scalar
    """
    error = centred(prediction.float() - target, mass)
    if huber is None:
        error = error.square()
    else:
        error = 2 * F.huber_loss(
            error, error.new_zeros(()).expand_as(error), delta=huber, reduction="none"
        )
    return 0.5 * error.mean() + 0.5 * (error * mass).sum((-2, -1)).mean()
