"""Bounds of values and derivatives of known layers: M_2 and G of a module on a ball."""
