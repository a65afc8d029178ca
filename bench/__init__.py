"""Benchmarks against other libraries; see bench/README.md."""
