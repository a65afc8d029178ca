"""The c-transform of a potential, and the searches that find it."""

from unot_fast.conjugate.c_transform import METHODS, CTransform, c_transform
from unot_fast.conjugate.cost import Cost, PowerCost
from unot_fast.conjugate.scaled_cost import described, in_units

__all__ = ["METHODS", "CTransform", "Cost", "PowerCost", "c_transform", "described", "in_units"]
