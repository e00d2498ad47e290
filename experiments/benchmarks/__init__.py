"""Benchmarks: timings written as JSON together with the environment."""
