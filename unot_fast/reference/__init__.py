"""Readable float64 definitions on dense matrices: the truth that kernels are compared with."""
