"""Diagnoses: tests of a world model that know good from bad ones, and trials in the simulator's futures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.eval import shipped_tasks
from lwm_agent.experiments.diagnosis.clairvoyant import ClairvoyantPolicy, SeesPictures, SeesStates, goal_error
from lwm_agent.experiments.diagnosis.config import DiagnoseConfig
from lwm_agent.experiments.diagnosis.data_checks import DataCheck, check_data
from lwm_agent.experiments.diagnosis.run import sample_clips
from lwm_agent.experiments.diagnosis.trials import AGENT, MODEL, PICTURES, RECORDED, STATES, TRIALS, Trials
from lwm_agent.experiments.diagnosis.verdict import BAD, GOOD, WEAK, Finding, find, verdict
from lwm_agent.experiments.diagnosis.verifier import EncodedClips, Rate, Verification, encode_clips, verify
from lwm_agent.models.wrapped import WrappedModel
from lwm_agent.protocols import Belief

from .commands import run

SMALL = "--set planner.num_samples=8 --set planner.num_elites=2 --set agent.num_proposals=2"


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few episodes of Push-T."""
    path = tmp_path_factory.mktemp("diagnosis") / "play.h5"
    collect(CollectConfig(env="pusht", policy="play", episodes=6, seed=9, out=path))
    return path


@pytest.fixture(scope="module")
def clips(play: Path) -> EncodedClips:
    """Clips of these, seen by the shipped model."""
    return encoded(agent(), play)


def agent(**settings: Any) -> Agent:
    return Agent.load("pusht-tiny", "guided", cost="best-step", device="cpu", num_proposals=2, **settings)


def encoded(agent: Agent, play: Path, count: int = 40) -> EncodedClips:
    config = DiagnoseConfig(env="pusht", planner="guided", data=(play,), clips=count, out=Path("unused"))
    return encode_clips(agent, sample_clips(config, agent))


def with_model(agent: Agent, model: WrappedModel) -> Agent:
    agent.decider = replace(agent.replanner, model=model)
    return agent


class Deaf(WrappedModel):
    """A model that does not listen to actions."""

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        return super().rollout(belief, torch.zeros_like(actions))


class Recorded(WrappedModel):
    """A model that is right about the recorded actions, and as wrong about others as they are different."""

    def __init__(self, agent: Agent, clips: EncodedClips) -> None:
        super().__init__(agent.replanner.model)
        self.clips = clips

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        rows = [int((self.clips.start == latent).all(1).nonzero()[0]) for latent in belief.latent]
        wrong = (actions - self.clips.blocks[rows][:, None]).square().mean(-1).sqrt()  # (B, S, T)
        return self.clips.latents[rows][:, None] + wrong[..., None]


def test_a_model_that_is_right_passes_all_tests(clips: EncodedClips) -> None:
    tested = agent()
    result = verify(with_model(tested, Recorded(tested, clips)), clips, seed=0)
    assert all(rate.share == 1 for rate in result.told_apart.values())
    assert result.picked.share == 1
    assert max(result.error_by_block) < 1e-5
    assert result.gap["2 sd"] > result.gap["0.25 sd"] > 10


def test_a_model_that_ignores_actions_fails(clips: EncodedClips) -> None:
    tested = agent()
    result = verify(with_model(tested, Deaf(tested.replanner.model)), clips, seed=0)
    assert all(rate.share == 0 for rate in result.told_apart.values())
    assert max(result.gap.values()) == 0
    grades = {finding.part: finding.grade for finding in find(check_data(agent(), clips), result, None)}
    assert grades["one step of the predictor"] == BAD


def test_the_shipped_model_is_between_them(clips: EncodedClips) -> None:
    result = verify(agent(), clips, seed=0)
    shares = [result.told_apart[name].share for name in ("0.25 sd", "0.5 sd", "1 sd", "2 sd")]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert 0 < result.error_by_block[0] < result.end_error < 0.6
    assert result.picked.share > 0.6
    assert result == verify(agent(), clips, seed=0)  # the same seed, the same numbers
    assert result != verify(agent(), clips, seed=1)


def test_tests_do_not_depend_on_how_many_rollouts_fit(clips: EncodedClips) -> None:
    whole, parts = verify(agent(), clips, seed=0), verify(agent(max_rollouts=7), clips, seed=0)
    np.testing.assert_allclose(parts.error_by_block, whole.error_by_block, rtol=1e-4)
    assert parts.picked == whole.picked


def test_data_are_described(clips: EncodedClips, play: Path) -> None:
    check = check_data(agent(), clips)
    assert check.collapse is None
    assert 10 < check.effective_rank < check.latent_size == 128
    assert check.still < 0.3
    assert check.beyond == 0
    assert 0.5 < check.action_std[0] <= check.action_std[1] < 1.5
    still = EncodedClips(clips.belief, 3 * clips.blocks, clips.start[:, None].expand_as(clips.latents))
    changed = check_data(agent(), still)
    assert changed.still == 1
    assert changed.block_move < 1e-3
    assert changed.beyond > 0.02
    assert changed.action_std[0] == pytest.approx(3 * check.action_std[0], rel=1e-3)


@pytest.fixture
def twin() -> PushTEnv:
    return PushTEnv(terminate_on_success=False)


def test_the_simulator_takes_the_place_of_the_model(twin: PushTEnv) -> None:
    task, tested = shipped_tasks("pusht", "strict", "val", 25).tasks[0], agent()
    policy = ClairvoyantPolicy(tested, SeesPictures(tested, twin))
    policy.begin([task])
    before = twin.get_state()
    actions = np.array(task.env_actions, np.float32).reshape(1, 5, 5, 2)
    blocks = tested.checkpoint.normalizer.blocks(actions)[:, None]  # (1, 1, T, F*A)
    start = tested.observer.begin(twin.picture(before)[None])
    futures = policy.model.rollout(start, torch.cat([blocks, torch.zeros_like(blocks)], dim=1))
    np.testing.assert_array_equal(twin.get_state(), before)  # as it was
    env = PushTEnv(terminate_on_success=False)
    env.reset(options=task.reset_options)
    frames = [env.step(action)[0]["pixels"] for action in actions.reshape(-1, 2)][4::5]
    torch.testing.assert_close(futures[0, 0], tested.observer.begin(np.stack(frames)).latent, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(futures[0, 1], futures[0, 0])


def test_true_states_are_judged_by_their_errors(twin: PushTEnv) -> None:
    tasks, tested = shipped_tasks("pusht", "strict", "val", 25).tasks[:9], agent()
    error = goal_error(twin, tasks)
    starts = [error(np.array(task.state), np.array(task.goal_state)) for task in tasks]
    assert 0.3 < np.median(starts) < 3
    assert error(np.array(tasks[0].goal_state), np.array(tasks[0].goal_state)) == 0
    model = SeesStates(tested, twin, error)
    ClairvoyantPolicy(tested, model).begin([tasks[0]])
    actions = np.array(tasks[0].env_actions, np.float32).reshape(1, 5, 5, 2)
    start = tested.observer.begin(twin.picture(twin.get_state())[None])
    errors = model.rollout(start, tested.checkpoint.normalizer.blocks(actions)[:, None])
    distances = model.distance(errors, start.latent)
    assert distances.shape == (1, 1, 5)
    assert distances[0, 0, -1] == 0  # the recorded actions reach the goal
    assert distances[0, 0, 0] == pytest.approx(starts[0], rel=0.6)


def test_the_command_writes_what_it_found(play: Path, tmp_path: Path) -> None:
    said = run(f"diagnose --data {play} --clips 40 --episodes 2 --out out --budget-iterations 1 {SMALL}", tmp_path)
    assert "picks the recorded one" in said
    contents = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert set(contents["trials"]) == set(TRIALS)
    assert contents["trials"][RECORDED]["share"] == 1
    assert contents["trials"]["nothing"]["share"] == 0
    assert contents["verification"]["picked"]["n"] == 40
    assert contents["verdict"] in " ".join(said.split())
    for suffix in (".png", ".svg"):
        assert (tmp_path / "out" / f"diagnosis{suffix}").stat().st_size > 5000


@pytest.mark.parametrize("checkpoint", ["pusht-dreamer", "pusht-dino-wm-lite"])
def test_other_world_models_are_diagnosed(checkpoint: str, play: Path, tmp_path: Path) -> None:
    run(f"diagnose --checkpoint {checkpoint} --data {play} --clips 6 --episodes 0 --out out", tmp_path)
    contents = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert contents["trials"] == "not asked for (--episodes 0)"
    assert 0 < contents["verification"]["error_by_block"][-1] < 2


def test_a_policy_without_a_model_is_refused(play: Path, tmp_path: Path) -> None:
    said = run(f"diagnose --checkpoint pusht-gcbc --data {play}", tmp_path, code=2)
    assert "makes no plans: there is no model to test" in " ".join(said.split())


CHECK = DataCheck(None, 30.0, 128, 0.05, 0.2, 0.1, (0.9, 1.1), 0.1, 0.0)


def rate(share: float) -> Rate:
    return Rate.of([place < 100 * share for place in range(100)])


def verification(told: float = 0.98, error: float = 0.17, picked: float = 0.95) -> Verification:
    return Verification({"1 sd": rate(told)}, {"1 sd": 3.0}, (0.1, error), rate(picked))


def trials(**shares: float) -> Trials:
    names = {"recorded": RECORDED, "states": STATES, "pictures": PICTURES, "model": MODEL, "agent": AGENT}
    rates = {names[name]: rate(share) for name, share in shares.items()}
    return Trials({"nothing": rate(0), **rates}, {})


SOUND = {"recorded": 1.0, "states": 0.98, "pictures": 0.96, "model": 0.94, "agent": 0.94}


def test_a_sound_agent_has_no_faults() -> None:
    findings = find(CHECK, verification(), trials(**SOUND))
    assert {finding.grade for finding in findings} == {GOOD}
    assert "Nothing stands out" in verdict(findings)


@pytest.mark.parametrize(
    ("check", "tested", "shares", "part"),
    [
        (replace(CHECK, collapse="rank 1"), {}, {}, "latents"),
        (replace(CHECK, action_std=(0.1, 1.0)), {}, {}, "action scale"),
        (replace(CHECK, beyond=0.2), {}, {}, "action bounds"),
        (replace(CHECK, still=0.7), {}, {}, "movement"),
        (replace(CHECK, block_move=0.001), {}, {}, "frameskip"),
        (CHECK, {"told": 0.6}, {}, "one step of the predictor"),
        (CHECK, {"error": 0.8}, {}, "rollouts of the predictor"),
        (CHECK, {"picked": 0.2}, {}, "choice between plans"),
        (CHECK, {}, {"recorded": 0.5, "states": 0.5, "pictures": 0.5, "model": 0.5, "agent": 0.5}, "tasks"),
        (CHECK, {}, {"states": 0.5, "pictures": 0.5, "model": 0.5, "agent": 0.5}, "search"),
        (CHECK, {}, {"pictures": 0.5, "model": 0.5, "agent": 0.5}, "latents and their distance"),
        (CHECK, {}, {"model": 0.5, "agent": 0.5}, "futures of the predictor"),
        (CHECK, {}, {"agent": 0.5}, "planning cost"),
    ],
)  # fmt: skip
def test_the_verdict_names_the_fault(
    check: DataCheck, tested: dict[str, float], shares: dict[str, float], part: str
) -> None:
    findings = find(check, verification(**tested), trials(**{**SOUND, **shares}))
    (fault,) = [finding for finding in findings if finding.grade != GOOD]
    assert fault.part == part
    assert fault.advice
    assert verdict(findings).startswith(f"First of all, {part}: {fault.text}")


def test_the_worst_fault_comes_first() -> None:
    findings = (Finding("a", WEAK, "x.", "y."), Finding("b", BAD, "x.", "y."), Finding("c", BAD, "x.", "y."))
    assert verdict(findings).startswith("First of all, b:")
