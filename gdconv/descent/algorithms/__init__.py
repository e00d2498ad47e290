"""First-order algorithms on blocks of parameters, and what your own must deliver."""

from gdconv.descent.algorithms.base import Algorithm, State
from gdconv.descent.algorithms.constrained import L1, Ball, Box, Penalty, Projected, Proximal
from gdconv.descent.algorithms.momentum import GradientDescent, HeavyBall, Nesterov, largest_beta
from gdconv.descent.algorithms.named import algorithm_named
from gdconv.descent.algorithms.scaled import Normalized, Preconditioned, Sign

__all__ = [
    "L1",
    "Algorithm",
    "Ball",
    "Box",
    "GradientDescent",
    "HeavyBall",
    "Nesterov",
    "Normalized",
    "Penalty",
    "Preconditioned",
    "Projected",
    "Proximal",
    "Sign",
    "State",
    "algorithm_named",
    "largest_beta",
]
