"""Experiments, one figure or table a file; each writes results/<name>/."""
