"""Convex attention (Ergen et al. 2022)."""
