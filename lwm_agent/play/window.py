"""The window of `lwm-agent play`: mouse and keys to a session, and its picture to the screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import gymnasium as gym
import numpy as np
import pygame
from PIL import Image

from ..agent.config import load_agent
from ..checkpoint import Checkpoint
from ..compatibility import conventions
from ..envs.base import GoalImageEnv, Place
from ..envs.opengl import prepare_window
from ..errors import UserError
from ..eval.scenery import Frame
from ..experiments.config import EvalConfig
from ..experiments.evaluate import load_tasks
from ..files import replacing
from .config import PlayConfig
from .screen import HEIGHT, MARGIN, TABLE, TOP, WIDTH, draw_screen
from .session import Session

FPS = 30
TURN_DEG = 10.0  # a notch of the wheel
LEFT, RIGHT = 1, 3  # buttons, as pygame numbers them


class Window:
    """Shows a session and changes it as people say.

    Args:
        session: what is played.
        words: name of the agent.
    """

    def __init__(self, session: Session, words: str) -> None:
        self._session, self._words = session, words
        prepare_window()
        pygame.display.init()
        pygame.display.set_caption("lwm-agent play")
        self._surface = pygame.display.set_mode((WIDTH, HEIGHT))
        self._held: dict[int, Place] = {}
        self._drawn = -1
        self.picture: Frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)

    def refresh(self, now_s: float) -> bool:
        """Handles what people did, lets the world go on, and draws it; False when the window is to close."""
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                return False
            self._handle(event)
        self._session.advance(now_s)
        if self._drawn != self._session.version:
            self._drawn = self._session.version
            self.picture = draw_screen(self._session, self._words)
            self._surface.blit(pygame.image.frombuffer(self.picture.tobytes(), (WIDTH, HEIGHT), "RGB"), (0, 0))
            pygame.display.flip()
        return True

    def close(self) -> None:
        """Frees the window."""
        pygame.display.quit()

    def _handle(self, event: pygame.event.Event) -> None:
        session = self._session
        if event.type == pygame.KEYDOWN and event.key == pygame.K_SPACE:
            session.toggle_pause()
        elif event.type == pygame.KEYDOWN and event.key == pygame.K_r:
            session.new_task()
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button in (LEFT, RIGHT):
            self._held[event.button] = _place(event.pos)
        elif event.type == pygame.MOUSEBUTTONUP:
            self._held.pop(event.button, None)
        elif event.type == pygame.MOUSEWHEEL:
            session.turn_goal(-TURN_DEG * event.y)
        elif event.type == pygame.MOUSEMOTION:
            for button, start in self._held.items():
                change = session.drag_goal if button == LEFT else session.push
                change(start, _place(event.pos))
                self._held[button] = _place(event.pos)


def _place(position: tuple[int, int]) -> Place:
    """The place on the table of a point of the window."""
    return (position[0] - MARGIN) / TABLE, (position[1] - TOP) / TABLE


def make_session(config: PlayConfig) -> Session:
    """The session that `config` asks for.

    Raises:
        UserError: there are no such tasks, or environment and checkpoint do not fit each other or a window.
    """
    task_set = load_tasks(EvalConfig.of(config, offset=config.offset, tasks=config.tasks, output_dir=Path()))
    if config.task >= len(task_set.tasks):
        raise UserError(f"--task {config.task}: the tasks are 0 to {len(task_set.tasks) - 1}")
    checkpoint = Checkpoint.load(config.checkpoint_name)
    kwargs = {**task_set.env_kwargs, **conventions(config.env, checkpoint.env_kwargs)}
    env = gym.make(
        task_set.env_id,
        disable_env_checker=True,
        **{**kwargs, "terminate_on_success": False, "render_mode": "rgb_array", "render_size": TABLE},
    )
    agent = load_agent(config, checkpoint, keep_thoughts=True)
    tasks = task_set.tasks[config.task :] + task_set.tasks[: config.task]
    return Session(cast(GoalImageEnv, env.unwrapped), agent, tasks)


def run_play(config: PlayConfig) -> int:
    """Opens a window and plays until it is closed; returns the environment steps since the last new task."""
    session = make_session(config)
    window = Window(session, f"{config.checkpoint_name}: {session.agent.describe()}")
    clock, started_s = pygame.time.Clock(), time.monotonic()
    try:
        while window.refresh(time.monotonic()):
            if config.seconds is not None and time.monotonic() - started_s >= config.seconds:
                break
            clock.tick(FPS)
    finally:
        session.close()
        window.close()
    if config.screenshot is not None:
        with replacing(config.screenshot) as partial:
            Image.fromarray(window.picture).save(partial, format="PNG")
    return session.steps
