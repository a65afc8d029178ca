"""Benchmarks on a CUDA device: ``bash bench/gpu/run.sh [DIR]``."""
