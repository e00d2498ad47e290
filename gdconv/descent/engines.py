"""Which engine runs a plan."""

from __future__ import annotations

from typing import Any

import torch

from gdconv.data.problem import Problem
from gdconv.descent.engine import Engine
from gdconv.descent.fused import FusedEngine
from gdconv.descent.in_torch import TorchEngine
from gdconv.descent.plan import Plan
from gdconv.models.base import Model
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.support.errors import InputError


def runs_in_torch(model: Model, problem: Problem, engine: str, follows: bool) -> bool:
    """Whether a run needs the torch engine, because it is asked for or because nothing else can.

    Args:
        model: The model; the compiled loop knows the multi-head regression.
        problem: Data; the compiled loop works in float64 on the CPU and knows no padding.
        engine: What is asked for: auto, fused or torch.
        follows: Whether Python sees every iterate (`Plan.follows`).

    Returns:
        True for the torch engine.
    """
    X = problem.X
    fits = X.device.type == "cpu" and X.dtype == torch.float64 and problem.mask is None
    fits = fits and not follows
    return engine == "torch" or not fits or not isinstance(model, MultiHeadRegression)


def make_engine(model: Model, problem: Problem, params: Any, plan: Plan) -> Engine:
    """The engine that suits device, dtype and wish.

    Args:
        model: The model.
        problem: Data.
        params: Start weights.
        plan: What to run; its `engine` is auto, fused or torch.

    Returns:
        A fresh engine.

    Raises:
        InputError: The fused engine is asked for where it cannot run.
    """
    in_torch = runs_in_torch(model, problem, plan.engine, plan.follows)
    if plan.engine == "fused" and in_torch:
        raise InputError(
            "engine",
            "fused",
            "use --engine torch for padded data (a mask), other devices, dtypes, models, theorems "
            "and algorithms",
        )
    if in_torch or not isinstance(model, MultiHeadRegression):
        return TorchEngine(model, problem, params, plan)
    return FusedEngine(model, problem, params, plan)
