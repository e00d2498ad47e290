"""Gradient descent: plan, engines, the loop, what is followed, why a run stalls."""
