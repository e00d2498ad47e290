"""Solvers of the convex programs."""
