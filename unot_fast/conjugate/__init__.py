"""The c-transform of a potential, and the searches that find it."""

from unot_fast.conjugate.c_transform import METHODS, CTransform, c_transform
from unot_fast.conjugate.cost import PowerCost

__all__ = ["METHODS", "CTransform", "PowerCost", "c_transform"]
