"""The five verdicts, their order and exit codes.

=============  ============  =============================  ====================================
verdict        hypotheses    bound on every step            meaning
=============  ============  =============================  ====================================
confirmed      met           holds, and is informative      the prediction is seen
vacuous        met           holds, never below 0.9         nothing was tested
refuted        met           violated beyond error          a witness
outside        not met       holds or violated (said)       the theorem is silent here
undecided      any undecided                                error bars overlap: raise the precision
=============  ============  =============================  ====================================
"""

from __future__ import annotations

from collections.abc import Iterable

ORDER = ("refuted", "undecided", "outside", "vacuous", "confirmed")
"""Worst first."""

EXIT_CODES = {"confirmed": 0, "refuted": 1, "vacuous": 3, "outside": 3, "undecided": 3}
"""Exit code of a command whose judged statement has that verdict; 2 is bad input."""


def worst(verdicts: Iterable[str]) -> str:
    """The worst of several verdicts.

    Args:
        verdicts: At least one verdict.

    Returns:
        The one that comes first in `ORDER`.

    Example:
        >>> worst(["confirmed", "vacuous"])
        'vacuous'
    """
    return min(verdicts, key=ORDER.index)
