"""Options of theorems, models and algorithms of one's own: read, shared, filled, refused, saved."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import pytest
from matplotlib.text import Text
from torch import nn

import gdconv
from gdconv.checks.given import Given
from gdconv.checks.readers import RESERVED
from gdconv.checks.replay import differences, replay
from gdconv.checks.resolve import resolve, resolve_saved
from gdconv.checks.store import run_name
from gdconv.descent.algorithms import Algorithm, Ball, GradientDescent, HeavyBall, Projected
from gdconv.models.generic.nets import TwoLayer
from gdconv.models.multihead.family import MultiHead
from gdconv.models.multihead.witnesses import stacked_witness
from gdconv.models.named import Named
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.theory.certificates import descent_hypotheses, mean_rate
from gdconv.theory.claims import ClaimTheorem, Finding
from gdconv.theory.prediction import Inequality, Prediction
from gdconv.theory.registry import tried
from gdconv.theory.theorem import Theorem, statement

NETS = "gdconv.models.generic.nets"
NEAR = f"{NETS}:NearFit"


class Slack(Theorem):
    """The product of a run, if its slack is large enough."""

    id, title, source = "slack", "Slack", "none"
    models = ("module",)
    algorithms = ("heavy-ball", f"{__name__}:Half")

    @dataclass(frozen=True)
    class Options:
        """Its own.

        Attributes:
            slack: Must be at least 1.
            width: Shared with the model.
        """

        slack: float = 2.0
        width: int = 6
        cap: float = math.inf

        def __post_init__(self) -> None:
            if self.slack < 0:
                raise ValueError("a negative slack")

    def constants(self, start: Any, rho: float) -> tuple[float, float]:
        return start.constants(rho)  # type: ignore[no-any-return]

    @statement("only", proof="none", default=True, posterior=True,
               defaults={"*": {"steps": 20, "label": 0.25, "model": NEAR}})  # fmt: skip
    def only(self, start: Any, outcome: Any) -> Prediction:
        """As far as it goes."""
        assert self.options.cap == math.inf
        rows = (Inequality("slack >= 1", self.options.slack, ">=", 1.0),)
        return Prediction((*rows, *descent_hypotheses(outcome)), mean_rate(outcome, "only"))


class Powers(ClaimTheorem):
    """Powers of a seed."""

    id, title, source = "powers", "Powers", "none"
    reads: ClassVar[dict[str, Any]] = {"samples": 3}

    @dataclass(frozen=True)
    class Options:
        exponent: int = 2
        shift: float | None = None

    def case(self, config: Config, seed: int) -> float:
        return float(seed + (config.samples or 0)) ** self.options.exponent

    @statement("positive", proof="none", default=True)
    def positive(self, x: float) -> Finding:
        """Even powers are not negative."""
        return Finding((Inequality("x >= 0", x, ">=", self.options.shift or 0.0),))


@dataclass(frozen=True)
class Half(Algorithm):
    """Half a step.

    Args:
        share: Of the step.
    """

    share: float = 0.5
    name: ClassVar[str] = "half"

    def step(self, params: Any, grad: Any, eta: Any, state: Any) -> Any:
        return {n: b - self.share * grad[n] for n, b in params.items()}, state


class Family(MultiHead):
    """A family of one's own, by text."""

    name = "mine"
    reads = (*MultiHead.reads,)

    def __init__(self, depth: int = 1) -> None:
        self.depth = depth


class Deep(Theorem):
    """Speaks of a family of one's own alone."""

    id, title, source = "deep", "Deep", "none"
    models = (f"{__name__}:Family",)

    @statement("still", proof="none", default=True)
    def still(self, start: Any) -> Prediction:
        """Nothing is claimed."""
        return Prediction((), 0.0)


def problem(kernel: str, seed: int) -> Named:
    """A named problem of one's own."""
    return stacked_witness(kernel, seed)._replace(options={"*": {"steps": 7}})


def resolved(theorem: Theorem, **options: Any) -> Any:
    with tried(theorem):
        return resolve(Config.open(theorem.id, options))


# A theorem's own options --------------------------------------------------------------------------


def test_a_theorem_reads_its_options_on_a_fresh_frozen_instance() -> None:
    theorem = Slack()
    made = resolved(theorem, slack=3)
    assert made.theorem.options == Slack.Options(3.0, 6)
    assert made.theorem is not theorem
    assert theorem.options is None
    with pytest.raises(FrozenInstanceError):
        made.theorem.options.slack = 1.0
    assert made.config.own["slack"] == 3.0
    assert "cap" not in made.config.own  # infinity is no JSON: what is declared counts


def test_an_option_decides_and_survives_save_and_replay(tmp_path: Any) -> None:
    with tried(Slack()):
        assert gdconv.check("slack", width=5, seed=1).verdict == "confirmed"
        check = gdconv.check("slack", slack=0.5, width=5, steps=9, seed=1)
        assert check.verdict == "outside"
        saved = gdconv.load(check.save(tmp_path))
        assert {k: saved.config[k] for k in ("slack", "width", "label")} == {
            "slack": 0.5, "width": 5, "label": 0.25,
        }  # fmt: skip
        assert saved.starts["0.weight"].shape[1] == 5
        again = replay(saved)
    assert differences(saved, again) == []
    assert again.config == saved.config
    assert check.to_json()["config"]["slack"] == 0.5


def test_another_value_is_another_folder() -> None:
    configs = [resolved(Slack(), slack=s).config.canonical() for s in (2, 2.0, 3.0)]
    assert len({run_name(config) for config in configs}) == 2


def test_cases_read_their_options_and_replay(tmp_path: Any) -> None:
    with tried(Powers()):
        assert gdconv.check("powers", exponent=3, seed=0).verdict == "confirmed"
        check = gdconv.check("powers", exponent=3, shift=1e9, seed=1)
        assert check.verdict == "refuted"
        saved = gdconv.load(check.save(tmp_path))
        assert differences(saved, replay(saved)) == []
        with pytest.raises(
            InputError, match="^width = 3: leave it out: powers reads exponent, sam"
        ):
            gdconv.check("powers", width=3)
        with pytest.raises(InputError, match="^exponnt = 3: did you mean exponent; choose options"):
            gdconv.check("powers", exponnt=3)
        with pytest.raises(InputError, match="^exponent = 0.5: give a whole number"):
            gdconv.check("powers", exponent=0.5)
        usual = gdconv.check("powers", exponent=None, shift=None).config
        assert (usual["exponent"], usual["shift"]) == (2, None)


def test_what_options_refuse_is_one_sentence() -> None:
    with pytest.raises(
        InputError, match=r"^theorem = slack: give options that it takes \(ValueErr"
    ):
        resolved(Slack(), slack=-1)


# Who wins -----------------------------------------------------------------------------------------


def test_a_given_value_goes_before_the_statement_the_theorem_and_the_model() -> None:
    made = resolved(Slack())
    assert made.config.model == f"{NETS}:NearFit"  # the default statement's
    assert made.config.own["label"] == 0.25  # the statement's, not the model's 2e-3
    assert made.config.own["width"] == 6  # the theorem's, not the model's 16
    assert made.config.own["inputs"] == 4  # the model's
    assert made.family.source.width == 6
    assert made.theorem.options.width == 6
    made = resolved(Slack(), width=3, label=1, inputs=5, model=f"{NETS}:TwoLayer")
    assert made.config.model == f"{NETS}:TwoLayer"
    assert (made.family.source.width, made.family.source.inputs) == (3, 5)
    assert made.family.source.label == 1.0


def test_a_field_that_a_theorem_declares_too_has_its_default() -> None:
    class Wide(Theorem):
        id, title, source = "wide", "Wide", "none"
        models = ("encoder",)

        @dataclass(frozen=True)
        class Options:
            width: int = 11

        @statement("still", proof="none", default=True)
        def still(self, start: Any) -> Prediction:
            """Nothing."""
            return Prediction((), 0.0)

    for options, width in (({}, 11), ({"width": 5}, 5)):
        made = resolved(Wide(), **options)
        assert made.config.width == made.theorem.options.width == width
        assert made.config.canonical()["width"] == width


# What cannot be -----------------------------------------------------------------------------------


def declared(**options: type) -> Theorem:
    kind = dataclass(frozen=True)(
        type("Options", (), {"__annotations__": options} | dict.fromkeys(options))
    )

    class Odd(Slack):
        id = "odd"
        Options = kind

    return Odd()


@pytest.mark.parametrize(
    ("options", "model", "said"),
    [
        ({"width": float}, f"{NETS}:TwoLayer",
         f"option = width: rename it in model {NETS}:TwoLayer, or declare it as float there: it is "
         "one of theorem odd."),
        ({"steps": int}, None, "option = steps: rename it in theorem odd: it is an option of "),
        ({"seed": int}, None, "option = seed: rename it in theorem odd: it is an option of every"),
        ({"weights": int}, None, "option = weights: rename it in theorem odd: it is an argum"),
        ({"loss": int}, None, "option = loss: rename it in theorem odd, or declare it as str "),
    ],
)  # fmt: skip
def test_declared_twice_or_taken(options: dict[str, type], model: str | None, said: str) -> None:
    asked = {"model": model} if model else {}
    with pytest.raises(InputError) as caught:
        resolved(declared(**options), **asked)
    assert str(caught.value).startswith(said)


def test_what_check_takes_in_memory_is_no_option_s_name() -> None:
    taken = {f.name for f in fields(Given)}
    assert taken - set(RESERVED) == {"loss"}  # a field that modules read: shared, as text


def test_a_required_option_is_asked_for() -> None:
    def make(size: int) -> nn.Module:
        return nn.Linear(size, 1)

    data = {"X": np.ones((2, 3)), "y": np.ones((2, 1))}
    with pytest.raises(InputError, match="^size = nothing: give --size, which model make needs"):
        gdconv.check("generic-gd", model=make, **data)
    check = gdconv.check("generic-gd", model=make, size=3, steps=2, **data)
    assert check.config["size"] == 3


# Models -------------------------------------------------------------------------------------------


def test_a_class_has_options_an_instance_and_a_lambda_have_none() -> None:
    check = gdconv.check("generic-gd", model=TwoLayer, width=3, steps=2)
    assert check.starts["0.weight"].shape[1:] == (3, 4)
    with pytest.raises(InputError, match="^width = 3: leave it out: the TwoLayer model does not"):
        gdconv.check("generic-gd", model=TwoLayer(), width=3)
    assert "inputs" not in gdconv.check("generic-gd", model=TwoLayer(), steps=2).config
    data = {"X": np.ones((2, 3)), "y": np.zeros((2, 1))}
    made = gdconv.check("generic-gd", model=lambda seed=3: nn.Linear(seed, 1), steps=2, **data)
    assert made.config["seed"] == 0


class Conv(nn.Module):
    """A module whose options have names of ours with another meaning."""

    def __init__(self, kernel: int = 3, init: str = "theorem", label_norm: float = 7.0) -> None:
        super().__init__()
        self.inner = nn.Linear(kernel, 1)

    def forward(self, x: Any) -> Any:
        return self.inner(x[:, : self.inner.in_features])


def test_fields_that_nobody_reads_have_no_value() -> None:
    made = resolve(Config("generic-gd")).config
    assert {made.kernel, made.heads, made.init, made.target, made.activation} == {None}
    assert resolve(Config("full-gd")).config.width is None


def test_own_names_of_ours_mean_what_their_reader_says() -> None:
    data = {"X": np.arange(8.0).reshape(2, 4) / 8, "y": np.ones((2, 1))}
    check = gdconv.check("generic-gd", model=Conv, kernel=2, steps=3, **data)
    assert check.starts["inner.weight"].shape[-1] == 2
    assert (check.starts["y"] == 1.0).all()  # label_norm is not ours here
    from gdconv.report.summary import summary

    said = summary(check)
    assert "model    Conv, loss squared" in said
    assert "kernel 2" in said
    assert "heads" not in said
    drawn = [text.get_text() for text in check.plot().findobj(Text)]
    assert any("Conv, loss squared, N=2" in text for text in drawn)
    assert not any("2 kernel" in text for text in drawn)


def test_a_family_of_one_s_own_by_text() -> None:
    sizes = {"samples": 2, "tokens": 2, "heads": 2, "head_dim": 2}
    made = resolved(Deep(), depth=4, **sizes)
    assert type(made.family).__name__ == "Family"
    assert made.family.depth == 4
    assert made.config.model == f"{__name__}:Family"
    with tried(Deep()):
        check = gdconv.check("deep", depth=4, steps=2, **sizes)
        assert check.config["depth"] == 4
        assert differences(check, replay(check)) == []
        for model in (Family, Family(3)):  # in memory they need no text
            made = gdconv.check("deep", model=model, steps=2, **sizes)
            assert made.config["model"] == ("Family" if model is Family else "mine")
            assert differences(made, replay(made, model=model)) == []
        with pytest.raises(InputError, match="^model = multihead: deep speaks of"):
            gdconv.check("deep", model="multihead")


def test_a_named_problem_of_one_s_own() -> None:
    check = gdconv.check("full-gd", problem=f"{__name__}:problem")
    assert check.config["steps"] == 7
    assert (check.runs["steps"] <= 7).all()
    with pytest.raises(InputError, match="^problem = .*: give another one: its weights are not th"):
        gdconv.check("ntk-regime", problem=f"{__name__}:problem")


# Algorithms ---------------------------------------------------------------------------------------


def test_an_algorithm_is_made_of_its_options() -> None:
    plain = resolve(Config("generic-gd"))
    assert plain.algorithm == GradientDescent()
    assert plain.config.algorithm is None
    made = resolve(Config.open("generic-gd", {"algorithm": "gd"}))
    assert (made.algorithm, made.config.algorithm) == (GradientDescent(), "gd")
    made = resolve(Config.open("generic-gd", {"algorithm": "Heavy_Ball", "beta": 0.5}))
    assert made.algorithm == HeavyBall(0.5)
    assert (made.config.algorithm, made.config.own["beta"]) == ("heavy-ball", 0.5)
    again = resolve_saved("generic-gd", made.config.canonical())
    assert again.algorithm == HeavyBall(0.5)
    own = resolve(Config.open("generic-gd", {"algorithm": f"{__name__}:Half", "share": 0.25}))
    assert own.algorithm == Half(0.25)
    assert resolve_saved("generic-gd", own.config.canonical()).algorithm == Half(0.25)


def test_an_algorithm_in_memory_is_named_where_a_text_can() -> None:
    given, rest = Given.split({"algorithm": HeavyBall(0.25)})
    assert given.algorithm is None
    assert rest == {"algorithm": "heavy-ball", "beta": 0.25}
    given, rest = Given.split({"algorithm": Half(0.25)})
    assert rest == {"algorithm": f"{__name__}:Half", "share": 0.25}
    ball = Projected(Ball(1.0))
    given, rest = Given.split({"algorithm": ball})
    assert given.algorithm is ball
    assert rest == {"algorithm": "projected"}
    assert resolve(Config.open("generic-gd", rest), given).algorithm is ball
    with pytest.raises(InputError, match="^beta = 0.5: give it to the instance, or give the algo"):
        Given.split({"algorithm": HeavyBall(0.25), "beta": 0.5})
    with pytest.raises(InputError, match="^algorithm = float: give its name, or an instance of"):
        Given.split({"algorithm": 0.5})


def test_which_algorithms_a_theorem_speaks_of() -> None:
    class Momentum(Slack):
        id = "momentum"
        algorithm = HeavyBall(0.3)
        algorithms = ()

    class Named(Slack):
        id = "named"
        algorithm = "heavy-ball"
        algorithms = ()

    assert resolved(Slack(), algorithm="heavy-ball").algorithm == HeavyBall(0.9)
    with pytest.raises(InputError, match="^algorithm = nesterov: choose among heavy-ball, "):
        resolved(Slack(), algorithm="nesterov")
    fixed = resolved(Momentum())
    assert fixed.algorithm == HeavyBall(0.3)
    assert fixed.config.algorithm == "heavy-ball"
    with tried(Momentum()):
        assert resolve_saved("momentum", fixed.config.canonical()).algorithm == HeavyBall(0.3)
    for theorem, said in ((Momentum(), "heavy-ball"), (Named(), "heavy-ball")):
        with pytest.raises(InputError, match=f"^algorithm = sign: leave it out: .* of {said}"):
            resolved(theorem, algorithm="sign")
    assert resolved(Named(), beta=0.2).algorithm == HeavyBall(0.2)
    with pytest.raises(InputError, match="^beta = 0.2: choose options among"):
        resolved(Momentum(), beta=0.2)
    with pytest.raises(InputError, match="^algorithm = gd: leave it out: full-gd speaks of gradie"):
        resolve(Config.open("full-gd", {"algorithm": "gd"}))


# Old runs -----------------------------------------------------------------------------------------


def test_a_run_saved_before_options_had_readers_replays(tmp_path: Any) -> None:
    check = gdconv.check("generic-gd", steps=5)
    old = {k: v for k, v in check.config.items() if k not in ("inputs", "label", "algorithm")}
    old |= dict.fromkeys(("kernel", "heads", "width", "init"))  # every field was there, most None
    check.config = old
    saved = gdconv.load(check.save(tmp_path))
    assert differences(saved, replay(saved)) == []
