"""Neural operators between functions on grids."""

from unot_fast.models.network import FourierNetwork
from unot_fast.models.published import PublishedUNOT

__all__ = ["FourierNetwork", "PublishedUNOT"]
