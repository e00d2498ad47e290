"""Multi-head attention regression (Song et al. 2024): all that speaks of this model."""
