"""Theorem and Statement (Inequality and Prediction: `prediction`; finding them: `registry`).

A theorem is a class whose methods, decorated with `statement`, turn a start into a `Prediction`.
The library never imports a theorem by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gdconv.descent.watch import Watch
from gdconv.models.multihead.initialization import solve_scale, spread_scores
from gdconv.support.choices import meant
from gdconv.support.errors import InputError
from gdconv.theory.prediction import Inequality, Prediction

if TYPE_CHECKING:
    from gdconv.descent.loop import Outcome

__all__ = [
    "Inequality",
    "Prediction",
    "Statement",
    "Theorem",
    "statement",
]

At = Callable[[Any], Any]


@dataclass(frozen=True)
class Statement:
    """One reading of a theorem.

    Attributes:
        name: Its name on the command line.
        predict: (theorem, start) -> Prediction; also takes the outcome if posterior.
        default: Whether the verdict speaks of it when none is asked for; the first one counts.
        proof: Where its proof stands, or why it has none.
        posterior: Judged from the finished run (a-posteriori bound).
        defaults: Option defaults under which it was seen to work, by data set or model ("*" for
            all).
        summary: First line of its docstring.
        kernel: The only attention kernel it speaks of, None for all.
        model: The only model it speaks of, None for all.
        algorithm: Name of the only algorithm it speaks of, None for all.
        claims: Posterior, and judged by claims about the finished run instead of a loss bound.
    """

    name: str
    predict: Callable[..., Any]
    default: bool
    proof: str
    posterior: bool
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: str = ""
    kernel: str | None = None
    model: str | None = None
    claims: bool = False
    algorithm: str | None = None

    def speaks_of(
        self, kernel: str | None, model: str | None, algorithm: str | None = None
    ) -> bool:
        """Whether it is about that kernel, model and algorithm; None is any."""
        pairs = ((kernel, self.kernel), (model, self.model), (algorithm, self.algorithm))
        return all(None in (asked, own) or asked == own for asked, own in pairs)


def statement(
    name: str,
    *,
    proof: str,
    default: bool = False,
    posterior: bool = False,
    defaults: dict[str, dict[str, Any]] | None = None,
    kernel: str | None = None,
    model: str | None = None,
    claims: bool = False,
    algorithm: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a method of a `Theorem` as one of its statements.

    Args:
        name: Name on the command line.
        proof: Where the proof stands.
        default: The statement that the theorem's verdict speaks of.
        posterior: The method also takes the finished run.
        defaults: Option defaults by data set or model.
        kernel: The only attention kernel it speaks of.
        model: The only model it speaks of.
        algorithm: Name of the only algorithm it speaks of.
        claims: Judged by claims about the finished run; implies posterior.

    Returns:
        The decorator.

    Example:
        >>> class Toy(Theorem):
        ...     id, title, source = "toy", "A toy", "none"
        ...     @statement("only", proof="none", default=True)
        ...     def only(self, start):
        ...         '''Nothing moves.'''
        ...         return Prediction((), 0.0)
        >>> [s.name for s in Toy().statements()]
        ['only']
    """

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        summary = (method.__doc__ or "").strip().split("\n")[0]
        made = Statement(
            name, method, default, proof, posterior or claims, defaults or {}, summary, kernel,
            model, claims, algorithm,
        )  # fmt: skip
        method.statement = made  # type: ignore[attr-defined]
        return method

    return mark


class Theorem:
    """Base of every theorem: identity plus statements.

    Attributes:
        id: Name on the command line.
        title: One line.
        source: Paper and theorem number.
        trains: Blocks that gradient descent moves, None for every trainable block of the model.
        models: Models it speaks of, the default one first; `module` for any torch module, and
            `package.module:name` for one of your own.
        watch: Makes what is followed besides the loss (`gdconv.descent.watch`), None for nothing.
        Options: A dataclass of options of its own, simple types with defaults; None for none.
        options: In a check, what was given for them: an instance of `Options`.
        algorithm: The rule of a step, an instance or a name; None for gradient descent. In a
            check it is the instance.
        algorithms: Names that `--algorithm` may choose among: none by default, None for any.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[tuple[str, ...] | None] = None
    models: ClassVar[tuple[str, ...]] = ("multihead",)
    watch: ClassVar[Callable[..., Watch] | None] = None
    Options: ClassVar[Any] = None
    options: Any = None
    algorithm: Any = None
    algorithms: ClassVar[tuple[str, ...] | None] = ()

    def statements(
        self, kernel: str | None = None, model: str | None = None, algorithm: str | None = None
    ) -> list[Statement]:
        """The statements in the order they are written, inherited ones first.

        Args:
            kernel: Only those that speak of this attention kernel; None for all.
            model: Only those that speak of this model; None for all.
            algorithm: Only those that speak of this algorithm; None for all.

        Returns:
            The statements.
        """
        methods: dict[str, Any] = {}  # a method that is overridden keeps its place
        for kind in reversed(type(self).__mro__):
            methods |= vars(kind)
        found = (getattr(v, "statement", None) for v in methods.values())
        known = [s for s in found if isinstance(s, Statement)]
        return [s for s in known if s.speaks_of(kernel, model, algorithm)]

    def statement_named(
        self,
        name: str | None,
        kernel: str | None = None,
        model: str | None = None,
        algorithm: str | None = None,
    ) -> Statement:
        """The statement of that name, or the default one.

        Args:
            name: A name, or None.
            kernel: The attention kernel of the run.
            model: The model of the run.
            algorithm: The algorithm of the run.

        Returns:
            The statement.

        Raises:
            InputError: No statement has that name, or not for that kernel, model and algorithm.
        """
        known = self.statements(kernel, model, algorithm)
        if not known:
            raise InputError("algorithm", algorithm, f"{self.id} says nothing of it")
        if name is None:
            return next((s for s in known if s.default), known[0])
        for s in known:
            if s.name == name:
                return s
        names = [s.name for s in known]
        raise InputError("statement", name, f"{meant(name, names)}choose one of {', '.join(names)}")

    def predict(self, s: Statement, start: Any, outcome: Outcome | None = None) -> Prediction:
        """Evaluate one statement on one run.

        Args:
            s: The statement.
            start: The run at step 0.
            outcome: The finished run, needed by posterior statements.

        Returns:
            The prediction.
        """
        with np.errstate(all="ignore"):  # absurd scales give inf or nan, which no hypothesis meets
            return s.predict(self, start, outcome) if s.posterior else s.predict(self, start)

    def pl_constants(self, start: Any) -> tuple[float, float]:
        """What bounds the PL constant from below at every step; the model's own way.

        Args:
            start: The run at step 0.

        Returns:
            Factor c and Lipschitz constant M: sigma_m(J_t)^2 is followed from below by
            c sigma_min(B_t)^2, and where M > 0 by sigma_m(J)^2 enclosed at some steps, M of J.
        """
        found: tuple[float, float] = start.pl_constants
        return found

    def constants(self, start: Any, rho: float) -> tuple[float, float]:
        """(M_2, G^2) of the trained blocks on the ball of radius rho around a start; the model's.

        Args:
            start: The centre.
            rho: Radius; infinite where the constants are global.

        Returns:
            Lipschitz constant of J and upper bound of |J|^2.
        """
        found: tuple[float, float] = start.constants(rho)
        return found

    def base(self, found: dict[str, int], seed: int, at: At) -> Any:
        """Weights with F = 0 whose W_O `--init theorem` scales until the hypotheses hold.

        Args:
            found: Sizes by option, of which this reads heads, embedding, head_dim and outputs.
            seed: Seed of the draws.
            at: Makes a start of weights.

        Returns:
            The weights.
        """
        return spread_scores(head_shape(found), seed, lambda params: at(params).sigma_0.lo)

    def solve(self, base: Any, holds: Callable[[Any], bool], margin: float) -> Any:
        """The weights of `--init theorem` from `base`: W_O scaled until the hypotheses hold.

        Args:
            base: From `base`.
            holds: Whether the judged statement's hypotheses hold at some weights.
            margin: Factor above the least scale.

        Returns:
            The weights.
        """
        return solve_scale(base, holds, margin)


def head_shape(found: dict[str, int]) -> tuple[int, int, int, int]:
    """(H, D, d, D_y) of the multi-head model from its sizes by option.

    Args:
        found: Sizes by option.

    Returns:
        The shape that initializations take.
    """
    return found["heads"], found["embedding"], found["head_dim"], found["outputs"]
