"""The window: simulated mouse and keys, on SDL's dummy screen."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from PIL import Image

from lwm_agent import Agent, GoalImageEnv, shipped_tasks
from lwm_agent.envs.playable import Playable
from lwm_agent.envs.pusht_geometry import TEE
from lwm_agent.envs.pusht_hands import drag_goal, inside, push, turn_goal
from lwm_agent.errors import UserError
from lwm_agent.play.screen import HEIGHT, MARGIN, TABLE, TOP, WIDTH
from lwm_agent.play.session import Session
from lwm_agent.play.window import Window

from .commands import run

STATE = np.array([100.0, 120.0, 256.0, 200.0, 0.4, 3.0, -2.0])
WORLD = 512.0


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.load("pusht-tiny", "actor", keep_imagined=True, num_proposals=2, device="cpu")


@pytest.fixture
def session(agent: Agent) -> Iterator[Session]:
    env: Any = gym.make("lwm/PushT-v0", render_mode="rgb_array", terminate_on_success=False, disable_env_checker=True)
    playing = Session(env.unwrapped, agent, shipped_tasks("pusht", "strict", "test", 50).tasks[:2])
    yield playing
    playing.close()


@pytest.fixture
def window(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown = Window(session, "someone")
    pygame.event.clear()
    yield shown
    shown.close()


def on_screen(x_px: float, y_px: float) -> tuple[int, int]:
    return round(MARGIN + TABLE * x_px / WORLD), round(TOP + TABLE * y_px / WORLD)


def drag(button: int, start: tuple[int, int], end: tuple[int, int]) -> None:
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=button, pos=start))
    pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, pos=end, rel=(0, 0), buttons=(1, 0, 0)))
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONUP, button=button, pos=end))


def let_go(window: Window, session: Session, steps: int) -> None:
    """Refreshes until the world has taken so many steps more."""
    last, deadline, now = session.steps + steps, time.monotonic() + 60, 0.0
    while session.steps < last:
        assert time.monotonic() < deadline
        now += 0.1
        assert window.refresh(now)
        time.sleep(0.002)


def test_the_agent_acts_as_without_a_window_and_the_window_shows_it(session: Session, window: Window) -> None:
    env = gym.make("lwm/PushT-v0", terminate_on_success=False, disable_env_checker=True)
    observation, info = env.reset(options=shipped_tasks("pusht", "strict", "test", 50).tasks[0].reset_options)
    state = None
    for _ in range(12):
        action, state = session.agent.predict(observation, state)
        observation, _, _, _, info = env.step(action)
    let_go(window, session, 9)
    first = window.picture
    let_go(window, session, 3)
    np.testing.assert_allclose(session.env.get_state(), info["state"], atol=1e-3)
    assert first.shape == (HEIGHT, WIDTH, 3)
    changed = (first != window.picture).any(-1)
    assert changed[TOP : TOP + TABLE, MARGIN : MARGIN + TABLE].any()  # the table
    assert changed[:, MARGIN + TABLE + MARGIN :].any()  # graphs
    assert session.plan is not None
    assert session.plan.pictures is not None


def test_the_goal_is_dragged_and_turned(session: Session, window: Window) -> None:
    session.toggle_pause()
    goal, state = session.env.goal_state, session.env.get_state()
    x, y = TEE.polygons(*goal[2:5])[0][0]
    cx, cy = TEE.polygons(*goal[2:5])[0][2]
    grip = (x + cx) / 2, (y + cy) / 2  # on the bar
    drag(1, on_screen(*grip), on_screen(grip[0] + 20, grip[1] - 15))
    window.refresh(0.0)
    moved = session.env.goal_state
    np.testing.assert_allclose(moved[2:4] - goal[2:4], [20, -15], atol=1.0)
    assert moved[4] == goal[4]
    np.testing.assert_array_equal(session.env.get_state(), state)  # the present stays
    pygame.event.post(pygame.event.Event(pygame.MOUSEWHEEL, x=0, y=-2))
    window.refresh(0.0)
    assert session.env.goal_state[4] - moved[4] == pytest.approx(math.radians(20))
    drag(1, on_screen(500, 500), on_screen(400, 400))  # where no goal is
    turned = session.env.goal_state
    window.refresh(0.0)
    np.testing.assert_array_equal(session.env.goal_state, turned)


def test_a_new_goal_is_pursued(session: Session, window: Window) -> None:
    let_go(window, session, 3)
    session.turn_goal(40.0)
    seen = session.goal_picture.copy()
    let_go(window, session, 3)
    assert session._state is not None
    np.testing.assert_array_equal(session._state.goal_pixels[0], seen)


def test_the_block_is_pushed_away(session: Session, window: Window) -> None:
    session.toggle_pause()
    state, goal = session.env.get_state(), session.env.goal_state
    corners = np.concatenate(TEE.polygons(*state[2:5]))
    grip = corners[:4].mean(0)
    drag(3, on_screen(*grip), on_screen(grip[0] + 15, grip[1] + 10))
    window.refresh(0.0)
    after = session.env.get_state()
    assert np.linalg.norm(after[2:4] - state[2:4]) > 5
    np.testing.assert_array_equal(after[:2], state[:2])
    np.testing.assert_array_equal(session.env.goal_state, goal)


def test_keys_pause_renew_and_end(session: Session, window: Window) -> None:
    let_go(window, session, 2)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
    for now in range(5):
        window.refresh(100.0 + now)
    assert session.paused
    assert session.steps == 2
    goal = session.env.goal_state
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_r))
    window.refresh(200.0)
    assert session.steps == 0
    assert not np.array_equal(session.env.goal_state, goal)
    assert session.plan is None
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE))
    assert not window.refresh(300.0)


def test_steps_keep_the_control_rate(session: Session) -> None:
    steps = 0
    for tick in range(40):  # 1.3 s, at 30 pictures a second
        if session._pending is not None:
            session._pending.result()  # the decision is there in time
        steps += session.advance(tick / 30)
    assert steps in (13, 14)


def test_a_slow_decision_stops_the_world_and_not_the_window(
    session: Session, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, thinking, real = threading.Event(), threading.Event(), session.agent.predict

    def slow(*args: Any, **settings: Any) -> Any:
        thinking.set()
        gate.wait(30)
        return real(*args, **settings)

    monkeypatch.setattr(session.agent, "predict", slow)
    window.refresh(0.0)
    assert thinking.wait(30)
    began = time.monotonic()
    shown = window.picture
    session.turn_goal(30.0)
    for tick in range(5):
        assert window.refresh(1.0 + tick)
    assert time.monotonic() - began < 5
    assert session.steps == 0
    assert (shown != window.picture).any()  # the goal that was turned meanwhile
    gate.set()
    let_go(window, session, 1)


def test_hands_keep_things_on_the_table() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, end = rng.uniform(-0.2, 1.2, (2, 2))
        x, y = rng.uniform(0.2, 0.8, 2)
        for changed in (
            drag_goal(STATE, tuple(start), tuple(end)),
            push(STATE, (STATE[2] / WORLD, STATE[3] / WORLD), tuple(end)),
            turn_goal(inside(np.array([40.0, 40.0, 512 * x, 512 * y, 0.0, 0.0, 0.0])), rng.uniform(-180, 180)),
        ):
            corners = np.concatenate(TEE.polygons(*changed[2:5]))
            assert corners.min() > 7
            assert corners.max() < 505
            assert (changed[:2] > 20).all()
            assert (changed[:2] < 492).all()


def test_pushes_turn_the_block_about_its_centre_and_miss_where_it_is_not() -> None:
    centre = (STATE[2] - 45 * math.sin(STATE[4])) / WORLD, (STATE[3] + 45 * math.cos(STATE[4])) / WORLD
    away = (centre[0] + 0.02, centre[1])
    moved = push(STATE, centre, away)
    assert moved[4] == pytest.approx(STATE[4])  # through the centre
    np.testing.assert_allclose(moved[2:4] - STATE[2:4], [0.02 * WORLD, 0], atol=1e-9)
    np.testing.assert_array_equal(push(STATE, (0.05, 0.95), (0.1, 0.9)), STATE)
    turned = turn_goal(turn_goal(STATE, 70.0), -70.0)
    np.testing.assert_allclose(turned, STATE, atol=1e-9)
    alone = drag_goal(STATE, (STATE[0] / WORLD, STATE[1] / WORLD), (0.3, 0.3))  # the goal's agent alone
    np.testing.assert_array_equal(alone[2:], STATE[2:])


def test_an_environment_without_hands_is_refused(agent: Agent, room: Any) -> None:
    env: Any = gym.make("Room-v0", render_mode="rgb_array", disable_env_checker=True).unwrapped
    assert isinstance(env, GoalImageEnv)
    assert not isinstance(env, Playable)
    with pytest.raises(UserError, match="RoomEnv cannot be played with: it needs the methods drag_goal, turn_goal"):
        Session(env, agent, shipped_tasks("pusht", "strict", "test", 50).tasks)


def test_the_command_plays_and_writes_a_screenshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    printed = run("play --planner actor --seconds 2 --screenshot shot.png", tmp_path)
    assert "wrote shot.png" in printed
    picture = np.asarray(Image.open(tmp_path / "shot.png"))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.std() > 10
    printed = run("play --task 200", tmp_path, code=2)
    assert "--task 200: the tasks are 0 to 199" in printed


@pytest.mark.ogbench
def test_the_cube_says_what_it_lacks(tmp_path: Path) -> None:
    printed = run("play --env cube", tmp_path, code=2)
    assert "CubeEnv cannot be played with" in printed
    assert "lwm-agent record" in printed
