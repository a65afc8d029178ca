"""The c-transform of a potential, and the searches that find it."""

from unot_fast.conjugate.c_transform import METHODS, CTransform, c_transform

__all__ = ["METHODS", "CTransform", "c_transform"]
