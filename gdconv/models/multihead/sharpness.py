"""Sharpness: the greatest eigenvalue of the Hessian of the loss, by Lanczos on its closed form.

eta lambda_max < 2 is what gradient descent on the local quadratic needs; eta lambda_max near 2 that
stays there is the edge of stability. The descent lemma says f_t - f_{t+1} >= eta (1 - eta L/2)
|grad f_t|^2 with L a bound of lambda_max along the step; `share` is the measured ratio with
L = lambda_max(theta_t).
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.hessian.dense import hessian
from gdconv.hessian.operators import HessianOperator
from gdconv.hessian.spectra import extreme_eigenpairs
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.multihead.hessian import multihead_layers, sum_of
from gdconv.support.errors import InputError
from gdconv.support.trust import Estimate

TOLERANCE = 1e-5
"""Relative accuracy asked of Lanczos; the error that was reached is reported."""

MOST_DENSE = 512
"""Up to so many weights the Hessian is made: 3 to 7 ms at 192, where products take 40."""

METHOD = "a Rayleigh quotient of Lanczos with its residual"


def sharpness(
    model: MultiHeadFormulas, problem: Problem, params: Any, trained: tuple[str, ...]
) -> Estimate:
    """lambda_max of the Hessian by the trained blocks, at one replica.

    Args:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that move.

    Returns:
        Rayleigh quotient and residual: an eigenvalue lies within the one of the other, which is
        lambda_max unless Lanczos missed it; nan where weights or products leave float64.
    """
    here = params.to("cpu", torch.float64)
    data = problem.to("cpu", torch.float64)
    layers = multihead_layers(model, data, here)
    dense = sum(getattr(here, block).numel() for block in trained) <= MOST_DENSE
    with np.errstate(all="ignore"):
        try:
            if dense:
                A: Any = sum_of([hessian(layer, trained) for layer in layers]).numpy()
            elif len(layers) == 1:
                A = HessianOperator(layers[0], trained)
            else:
                maps = [HessianOperator(layer, trained).linear_operator() for layer in layers]
                A = reduce(add, maps)
            pair = extreme_eigenpairs(A, tolerance=TOLERANCE)[0]
        except InputError:  # the weights or the products left float64
            return Estimate(float("nan"), float("nan"), METHOD)
    return Estimate(pair.value, pair.error, METHOD)
