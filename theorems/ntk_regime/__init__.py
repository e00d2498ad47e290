"""The NTK regime of a shallow encoder (Wu et al. 2023)."""
