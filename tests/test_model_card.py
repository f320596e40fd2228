"""Model cards: true of any model, and whole whatever a name or an entry is."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.model_card import model_card
from lwm_agent.models import LeWorldModel


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load("pusht-tiny")


NASTY = [
    "a|b",
    "a\nb",
    "<script>alert(1)</script>",
    "a`b",
    "<!-- /results -->",
    "a b",
    "学習",
    "![x](y)",
    "a\r\nb",
    "$(rm)",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_change_nothing_but_themselves(checkpoint: Checkpoint, name: str) -> None:
    def changed(name: str) -> str:
        training = {**checkpoint.training, "data": [name], "preset": name, "hardware": name, "changes": [name]}
        training["validation"] = {name: 1.0}
        training["heads"] = {**training["heads"], "checkpoint": name, "validation": {name: name}}
        config = {**checkpoint.model_config, name: name}
        return model_card(replace(checkpoint, env=name, cost=name, training=training, model_config=config))

    card, plain = changed(name), changed("plain")
    assert len(card.splitlines()) == len(plain.splitlines())
    assert "<script" not in card
    assert "<!--" not in card
    assert "![x](y)" not in re.sub(r"`[^`]*`", "", card)
    for line, other in zip(card.splitlines(), plain.splitlines(), strict=True):
        assert line.count("|") == other.count("|")
        assert line.startswith("```") or line.count("`") % 2 == 0


def test_commands_are_quoted_for_a_shell(checkpoint: Checkpoint) -> None:
    training = {**checkpoint.training, "data": ["my data/a.h5", "b.h5"], "set": {"warmup": 0.5}}
    card = model_card(replace(checkpoint, training=training))
    command = next(line for line in card.splitlines() if line.startswith("Command: `lwm-agent train "))
    words = shlex.split(command.removeprefix("Command: `").removesuffix("`"))
    assert words[8:12] == ["--data", "my data/a.h5", "--data", "b.h5"]
    assert words[words.index("train.warmup=0.5") - 1] == "--set"


@pytest.mark.parametrize("value", [None, "x", 7, -0.5, [], {}, [1], {"a": {}}, True, 10**400, float("nan"), 1e999])
def test_unknown_entries_and_types_give_a_card(checkpoint: Checkpoint, value: Any) -> None:
    assert "# lewm" in model_card(replace(checkpoint, training={}))
    for part in (None, "heads", "predictor"):
        entries: dict[str, Any] = checkpoint.training if part is None else checkpoint.training[part]
        for name in (*entries, "unknown", "set", "changes", "before", "hardware"):
            changed = {**entries, name: value}
            training = changed if part is None else {**checkpoint.training, part: changed}
            assert "# lewm" in model_card(replace(checkpoint, training=training))


class Described(LeWorldModel):
    def describe(self) -> str:
        return "A recurrent model of `3` parts"


def test_card_describes_any_model(checkpoint: Checkpoint) -> None:
    model = Described(**checkpoint.model_config)
    card = model_card(replace(checkpoint, name="dreamer", model=model, model_config={"size": 3}))
    assert "A recurrent model of `3` parts for `pusht`, trained from pixels and actions alone" in card
    assert "| model | `size=3` |" in card
    assert "lwm-agent train --env pusht --model dreamer" in card
    assert "predictor" not in card.split("## Predictor")[0]
