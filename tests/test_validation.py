"""Settings are checked against their annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from lwm_agent.errors import UserError, UserTypeError
from lwm_agent.experiments.config import BenchConfig, EvalConfig, RecommendConfig, TasksConfig
from lwm_agent.training.config import HeadsConfig, PredictorConfig, TrainConfig
from lwm_agent.validation import Choices, Config, PositiveFloat, PositiveInt, Range, Seed


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    """Example.

    Attributes:
        steps: steps.
    """

    steps: PositiveInt | None = None
    rate: PositiveFloat = 1.0
    share: Annotated[float, Range(least=0, under=1)] = 0.0
    seed: Seed = 0
    name: Annotated[str, Choices(("left", "right"))] = "left"
    free: Annotated[str, Choices(("up",), "any other")] = "up"
    flag: bool = False
    files: tuple[str, ...] = ()
    path: Path | None = None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"steps=0 must be positive"),
        ({"share": -0.5}, r"share=-0\.5 must be at least 0"),
        ({"share": 1}, r"share=1 must be under 1"),
        ({"seed": -1}, r"seed=-1 must be at least 0"),
        ({"seed": 2**63}, r"seed=\d+ must be under 2\*\*63"),
        ({"seed": 2**5000}, r"must be under 2\*\*63"),
        ({"rate": float("nan")}, r"rate=nan must be finite"),
        ({"rate": float("inf")}, r"rate=inf must be finite"),
        ({"rate": 10**400}, r"must be within 64 bits"),
        ({"name": "middle"}, r"name='middle' is unknown: choose one of left, right"),
        ({"name": ""}, r"name='' must not be empty"),
        ({"free": ""}, r"free='' must not be empty"),
        ({"files": ("a", "")}, r"must not be empty"),
    ],
)
def test_value_out_of_range_is_named_with_its_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Example(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": True}, r"steps=True must be int \| None"),
        ({"steps": 2.5}, r"steps=2\.5 must be int \| None$"),
        ({"steps": 1e3}, r"steps=1000\.0 must be int \| None: write 1000"),
        ({"seed": "3"}, r"seed='3' must be int"),
        ({"rate": "x"}, r"rate='x' must be float"),
        ({"rate": True}, r"rate=True must be float"),
        ({"rate": None}, r"rate=None must be float"),
        ({"name": 5}, r"name=5 must be str"),
        ({"flag": 1}, r"flag=1 must be bool"),
        ({"files": ["a"]}, r"files=\['a'\] must be a tuple of str"),
        ({"files": ("a", 3)}, r"must be a tuple of str"),
        ({"path": "x"}, r"path='x' must be Path \| None"),
    ],
)
def test_value_of_another_type_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserTypeError, match=message):
        Example(**settings)


def test_values_within_the_rules_are_accepted() -> None:
    example = Example(steps=3, rate=2, share=0.5, seed=2**63 - 1, name="right", free="down", files=("a",))
    assert (example.rate, example.free) == (2, "down")


OUT = Path("out")
COMPLETE: dict[type[Config], dict[str, Any]] = {
    EvalConfig: {"planner": "cem", "output_dir": OUT},
    BenchConfig: {"planner": "cem", "output_dir": OUT},
    TasksConfig: {"out": OUT},
    TrainConfig: {"data": ("a",), "out": "b"},
    HeadsConfig: {"checkpoint": "c", "data": ("a",)},
    PredictorConfig: {"checkpoint": "c", "data": ("a",)},
    RecommendConfig: {"checkpoint": "c", "cost": ("terminal",), "planner": "cem", "output_dir": OUT},
}


@pytest.mark.parametrize("config", COMPLETE, ids=lambda config: config.__name__)
def test_every_setting_refuses_a_value_of_another_type_and_what_is_empty(config: type[Config]) -> None:
    names = config(**COMPLETE[config]).__dict__
    for name, value in names.items():
        with pytest.raises(UserError, match=name):
            config(**{**COMPLETE[config], name: object()})
        if isinstance(value, str) or name in ("checkpoint", "out"):
            with pytest.raises(UserError, match=name):
                config(**{**COMPLETE[config], name: ""})
        if isinstance(value, int | float):
            with pytest.raises(UserError, match=name):
                config(**{**COMPLETE[config], name: float("nan")})
