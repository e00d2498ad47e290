"""One table of tests that every registered theorem must pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gdconv
from gdconv.theory.claims import ClaimTheorem
from gdconv.theory.registry import registry, theorem_named
from gdconv.theory.theorem import Theorem
from gdconv.theory.verdict import ORDER

ROOT = Path(__file__).resolve().parents[2]
CASES = [(theorem, s.name) for theorem in registry().values() for s in theorem.statements()]
KERNELS = {"multihead": ("softmax", "gaussian"), "encoder": ("softmax",)}
MODELS = [
    (theorem, model, kernel)
    for theorem in registry().values()
    for model in theorem.models
    for kernel in {"multihead": ("softmax", "gaussian"), "encoder": ("softmax",)}.get(
        model, (None,)
    )
]
RUNS = [
    (theorem, model, s.name, kernel)
    for theorem, model, kernel in MODELS
    for s in theorem.statements(kernel, model)
]
CLAIMS = [theorem for theorem in registry().values() if isinstance(theorem, ClaimTheorem)]


@pytest.mark.parametrize("theorem", registry().values(), ids=lambda t: t.id)
def test_identity(theorem: Theorem) -> None:
    assert theorem.title
    assert theorem.source
    assert theorem_named(theorem.id) is not None
    assert len({s.name for s in theorem.statements()}) == len(theorem.statements())


@pytest.mark.parametrize(
    ("theorem", "model", "kernel"), MODELS, ids=[f"{t.id}:{m}:{k}" for t, m, k in MODELS]
)
def test_every_model_and_kernel_has_a_default_statement(
    theorem: Theorem, model: str, kernel: str | None
) -> None:
    defaults = [s.name for s in theorem.statements(kernel, model) if s.default]
    assert defaults
    assert theorem.statement_named(None, kernel, model).name == defaults[0]


@pytest.mark.parametrize(("theorem", "name"), CASES, ids=[f"{t.id}:{n}" for t, n in CASES])
def test_statement_is_documented_and_its_proof_exists(theorem: Theorem, name: str) -> None:
    s = theorem.statement_named(name)
    assert s.summary.endswith(".")
    assert len(s.summary) < 100
    page, _, anchor = s.proof.partition("#")
    assert f'id="{anchor}"' in (ROOT / page).read_text(encoding="utf-8")


def _slow(theorem: Theorem, model: str, name: str, kernel: str | None) -> list[Any]:
    """The slowest theorem on its second model: its own tests run it on smaller settings."""
    second = theorem.id == "ntk-regime" and model == "multihead"
    return [pytest.mark.slow] if second and (kernel == "gaussian" or name != "run") else []


@pytest.mark.parametrize(
    ("theorem", "model", "name", "kernel"),
    [
        pytest.param(*run, id=f"{run[0].id}:{run[1]}:{run[2]}:{run[3]}", marks=_slow(*run))
        for run in RUNS
    ],
)
def test_default_settings_give_a_whole_check(
    theorem: Theorem, model: str, name: str, kernel: str | None
) -> None:
    check = gdconv.check(theorem.id, model=model, statement=name, kernel=kernel)
    assert check.verdict in ("confirmed", "refuted")
    assert check.statement == name
    spoken = {s.name for s in theorem.statements(kernel, model)}
    assert set(check.verdicts["statement"]) == spoken
    assert set(check.verdicts["verdict"]) <= set(ORDER)
    json.dumps(check.to_json(), allow_nan=False)
    trace = check.trace
    assert (trace["sigma_min_lo"] <= trace["sigma_min_hi"]).all()
    assert (trace["step"].diff().dropna() > 0).all()
    assert np.isfinite(trace["loss"]).all()
    compared = trace[f"bound[{name}]"].notna()
    assert compared.any() != theorem.statement_named(name, kernel, model).claims
    if check.verdict == "confirmed":
        assert (trace["loss_ratio"] <= trace[f"bound[{name}]"] * (1 + 1e-9))[compared].all()


@pytest.mark.parametrize("theorem", CLAIMS, ids=lambda t: t.id)
def test_theorem_without_descent_gives_a_whole_check(theorem: ClaimTheorem, tmp_path: Path) -> None:
    """Every statement is judged on claims of its own at the default settings; all is kept."""
    assert theorem.models == ()
    check = gdconv.check(theorem.id)
    assert check.statement == theorem.statement_named(None).name
    names = [s.name for s in theorem.statements()]
    assert list(check.verdicts["statement"]) == names
    assert set(check.verdicts["verdict"]) <= {"confirmed", "refuted"}
    assert (check.verdicts["claims"] > 0).all()
    assert set(check.hypotheses["statement"]) == set(names)
    for name in names:
        assert name in check.table("markdown")
    json.dumps(check.to_json(), allow_nan=False)
    assert len(check.runs) == 1
    place = check.save(tmp_path)
    assert (place / "figure.png").stat().st_size > 1000
    again = gdconv.load(place)
    assert again.verdict == check.verdict
    assert list(again.verdicts["verdict"]) == list(check.verdicts["verdict"])


def test_every_theorem_is_followed_or_claimed() -> None:
    """No theorem escapes both tables."""
    followed, claimed = {t.id for t, *_ in MODELS}, {t.id for t in CLAIMS}
    assert followed | claimed == set(registry())


def test_catalogue_lists_every_statement() -> None:
    table = gdconv.theorems()
    assert list(table["id"]) == list(registry())
    for theorem, name in CASES:
        assert name in table.set_index("id").loc[theorem.id, "statements"]


def test_a_users_own_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry scans entry points; a package of theorems needs no edit here."""
    from importlib.metadata import EntryPoint

    package = tmp_path / "my_theorems"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "toy.py").write_text(
        "from gdconv.theory.theorem import Prediction, Theorem, statement\n"
        "class Toy(Theorem):\n"
        "    id, title, source = 'toy', 'Toy', 'none'\n"
        "    @statement('still', proof='none', default=True)\n"
        "    def still(self, start):\n"
        "        'Nothing is claimed.'\n"
        "        return Prediction((), 0.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ours = EntryPoint("gdconv", "gdconv.gallery", "gdconv.theorems")
    mine = EntryPoint("mine", "my_theorems", "gdconv.theorems")
    monkeypatch.setattr("gdconv.theory.registry.entry_points", lambda group: (ours, mine))
    assert set(registry()) >= {"full-gd", "toy"}
    check = gdconv.check(
        "toy", data="gaussian", samples=1, tokens=1, embedding=2, heads=1, head_dim=1, steps=3
    )
    assert check.verdict == "vacuous"
