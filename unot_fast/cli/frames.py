"""Frames of a displacement interpolation between pictures."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from unot_fast import OTResult


def displacement_frames(
    result: OTResult, first: np.ndarray, last: np.ndarray, steps: int
) -> np.ndarray:
    """Images from one picture to the other, in the pictures' own brightness.

    A channel's total goes linearly from that of ``first`` to that of ``last``. All frames share
    one white, the brightest pixel of the two pictures, so that nothing flickers.

    Parameters
    ----------
    result : OTResult
        Of the channels as a batch of C measures of total 1.
    first, last : ndarray, shape (C, H, W)
        The pictures on the grid.
    steps : int
        Frames, both ends included.

    Returns
    -------
    ndarray, shape (steps, C, H, W), float64
        In [0, 1].
    """
    white = max(first.max(), last.max())
    start, end = (x.sum((1, 2)) / white for x in (first, last))
    frames = []
    for t in tqdm(np.linspace(0, 1, steps), desc="frames", leave=False, disable=None):
        total = (1 - t) * start + t * end
        frames.append(result.interpolate(t).cpu().numpy() * total[:, None, None])
    return np.clip(frames, 0, 1)
