"""The shallow encoder (Wu et al. 2023): all that speaks of this model."""
