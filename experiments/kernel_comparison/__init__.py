"""Softmax against Gaussian attention on two tasks."""
