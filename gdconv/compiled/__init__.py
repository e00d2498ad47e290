"""All that numba compiles, and nothing else."""
