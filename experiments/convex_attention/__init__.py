"""Convex attention against its rivals."""
