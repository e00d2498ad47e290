"""Theorems, one a file; the entry-point group `gdconv.theorems` names this package."""
