"""Convex attention: group lasso over tokens, its dual, its certificates, its solvers."""
