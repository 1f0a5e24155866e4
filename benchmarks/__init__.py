"""What PiBot costs, measured beside its peers. See README.md; ``python -m benchmarks.run`` measures."""
