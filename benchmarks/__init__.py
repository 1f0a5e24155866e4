"""Measure what PiBot costs, next to other task queues. See README.md; start reading at :mod:`benchmarks.run`."""
