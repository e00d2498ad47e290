"""Check: one theorem on one setting, from options to verdict.

options -> Resolved -> Setting -> Outcome -> Judgement -> Check
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np

from gdconv.checks.claims import Cases, evaluate
from gdconv.checks.collect import collect
from gdconv.checks.given import Given
from gdconv.checks.parallel import in_processes
from gdconv.checks.prepare import Setting, prepare
from gdconv.checks.result import Check, Interrupted, Progress
from gdconv.checks.steps import StepSizes, plan_of, step_sizes
from gdconv.compiled.descent import ROSE
from gdconv.data.problem import Problem
from gdconv.descent.loop import Outcome, descend
from gdconv.support.config import Config
from gdconv.support.errors import DivergenceError, InputError
from gdconv.support.interruption import deferred
from gdconv.support.threads import one_thread
from gdconv.theory.registry import theorem_named

MOST_HALVINGS = 40
"""A local step that still rises after this many halvings is given up."""

UNREAD = {
    "out": "call .save(folder) on the result",
    "json": "call .to_json() on the result",
    "quiet": "give no progress: nothing is printed here",
}
"""Options that the command line alone reads, and what does the same in Python."""


def check(theorem: str, progress: Progress | None = None, **options: Any) -> Check:
    """Check a theorem on one setting.

    Args:
        theorem: Theorem id, such as "full-gd".
        progress: Called with (phase, step, last step).
        **options: Any field of `gdconv.support.config.Config` that is read, but for out, json and
            quiet, which the command line reads; options that theorem, model and algorithm declare
            themselves; and in memory: `X` and `y`, arrays of samples, or lists of sequences of any
            length; `mask`, true for real tokens; `problem`, a `Problem` of one replica instead of
            them; `weights`, arrays by block, a model's own weights of one replica, or a torch
            `nn.MultiheadAttention` or its state_dict; `model`, a torch module or what makes one;
            `loss` and `algorithm` of one's own.

    Returns:
        The check.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> check("full-gd", problem="stacked-witness").verdict
        'refuted'
    """
    if options.get("step") is not None:
        options["step"] = str(options["step"])
    try:
        for name, remedy in UNREAD.items():
            if options.get(name) not in (None, False):
                raise InputError(name, options[name], f"leave it out, and {remedy}")
        given, named = Given.split(options)
        config = Config.open(theorem, named)
    except InputError:
        if isinstance(theorem, str):
            theorem_named(theorem)  # an unknown id is said before an unknown option
        raise
    return run(prepare(config, given), progress)


def run(setting: Setting | Cases, progress: Progress | None = None) -> Check:
    """Descend from a setting and judge, or evaluate what needs no descent.

    Args:
        setting: From `prepare` or `assemble`.
        progress: Called with (phase, step, last step).

    Returns:
        The check.

    Raises:
        Interrupted: The user pressed control-C; the finished seeds come with it.
        DivergenceError: A run diverged; the seeds that were finished before come with it.

    Example:
        >>> run(prepare(Config("full-gd", problem="stacked-witness"))).verdict
        'refuted'
    """
    if isinstance(setting, Cases):
        return evaluate(setting, progress)
    R, sizes = len(setting.starts), step_sizes(setting)
    outcomes: list[Outcome] = []
    notes = [*setting.notes, *sizes.notes]

    def judged() -> Check | None:
        """The check of what is finished; None if nothing is."""
        with deferred():
            return collect(setting, outcomes, sizes.rule, notes) if outcomes else None

    with one_thread():
        try:
            with closing(_descents(setting, sizes, progress)) as descents:
                for made, said in descents:
                    outcomes += made
                    notes += said
        except KeyboardInterrupt:
            raise Interrupted(judged(), R - len(outcomes)) from None
        except DivergenceError as error:
            error.check, error.total = judged(), R
            raise
        with deferred() as pressed:
            check = collect(setting, outcomes, sizes.rule, notes)
        if pressed:
            raise Interrupted(check, 0)
        return check


Descent = tuple[list[Outcome], list[str]]
"""Outcomes of some runs, and notes."""


def _descents(setting: Setting, sizes: StepSizes, progress: Progress | None) -> Generator[Descent]:
    """All runs in their order.

    The torch engine takes them together; the compiled loop gains nothing from that, and with jobs
    each is alone, so that its last digits do not depend on how many processes there are.

    Yields:
        Some of the runs.
    """
    R, jobs, local = len(setting.starts), setting.config.jobs, sizes.rule == "local"
    if jobs is None or R == 1:
        together = setting.batched
        for runs in [list(range(R))] if together else [[r] for r in range(R)]:
            yield _descend_batch(setting, runs, sizes.eta[runs], local, progress)
        return
    tasks = [(setting.only(range(r, r + 1)), [0], sizes.eta[[r]], local, None, r) for r in range(R)]
    with closing(in_processes(_descend_batch, tasks, jobs)) as answers:
        for done, found in enumerate(answers, 1):
            if progress:
                progress(f"{_phase(setting, list(range(R)), 0)}, finished", done, R)
            yield found


def _descend_batch(
    setting: Setting,
    runs: list[int],
    eta: np.ndarray,
    local: bool,
    progress: Progress | None,
    first: int = 0,  # its number among all that were asked for, of which `setting` has a part
) -> Descent:
    """Some of the runs; with the local step those that rise start again with half."""
    outcomes: dict[int, Outcome] = {}
    pending, notes = dict(zip(runs, eta, strict=True)), []
    for halving in range(MOST_HALVINGS + 1):
        replicas, steps = list(pending), np.array(list(pending.values()))
        problem = Problem.stack([setting.problem[r] for r in replicas])
        plan = plan_of(setting, replicas, steps, local and halving < MOST_HALVINGS)
        phase = _phase(setting, replicas, halving)
        report = (lambda t, last: progress(phase, t, last)) if progress else None  # noqa: B023
        try:
            made = descend(setting.model, problem, setting.params[replicas], plan, report)
        except DivergenceError as e:  # it counts within the batch
            r = replicas[e.run]
            seed = setting.seeds[r]
            raise DivergenceError(first + r, e.eta, e.step, e.loss, seed, local) from None
        outcomes |= dict(zip(replicas, made, strict=True))
        pending = {r: pending[r] / 2 for r in replicas if outcomes[r].status == ROSE}
        if not pending:
            break
        rose = ", ".join(str(first + r) for r in pending)
        notes.append(f"the loss rose in run {rose}: restarted with half the step")
    return [outcomes[r] for r in runs], notes


def _phase(setting: Setting, runs: list[int], halving: int) -> str:
    which = f"run {runs[0] + 1}" if len(runs) == 1 else f"{len(runs)} runs"
    halved = f", step / {2**halving}" if halving else ""
    what = f"{setting.resolved.theorem.id} {setting.config.kernel or setting.config.model}"
    return f"{what}, {which} of {len(setting.starts)}{halved}"
