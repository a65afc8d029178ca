"""Neural operators between functions on grids, and what they are trained on."""

from unot_fast.models.generator import Generator
from unot_fast.models.network import FourierNetwork
from unot_fast.models.published import PublishedUNOT

__all__ = ["FourierNetwork", "Generator", "PublishedUNOT"]
