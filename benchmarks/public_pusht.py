"""Push-T here beside gym-pusht: poses after the same actions, and pictures of the same states. See --help.

gym-pusht asks for pymunk 6 and this package for pymunk 7, but it runs with either::

    pip install --no-deps gym-pusht && pip install opencv-python-headless shapely
"""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import pymunk
import typer
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from lwm_agent.envs.base import State
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_geometry import CENTER_OF_GRAVITY, place
from lwm_agent.envs.pusht_play import PlayPolicy
from lwm_agent.eval.provenance import command_line, machine
from lwm_agent.files import replacing, write_text

PANEL = 288  # px, of the picture: three for a px of 96
SHOWN = 3  # states


class PublicPushT:
    """gym-pusht's environment, in states as they are here."""

    def __init__(self) -> None:
        if not hasattr(pymunk.Space, "add_collision_handler"):  # gone in pymunk 7; gym-pusht counts contacts with it
            pymunk.Space.add_collision_handler = lambda *pair: SimpleNamespace()
        import gym_pusht  # noqa: F401  registers it

        made = gym.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos", disable_env_checker=True)
        self.env: Any = made.unwrapped

    def reset(self, state: State) -> NDArray[np.uint8]:
        """Begins in `state`; the picture ``(96, 96, 3)``."""
        # It places the block first and turns it then, about its centre of gravity.
        turned = place((CENTER_OF_GRAVITY,), 0.0, 0.0, state[4])[0]
        corner = state[2:4] - CENTER_OF_GRAVITY + turned
        observation, info = self.env.reset(options={"reset_to_state": [*state[:2], *corner, state[4]]})
        np.testing.assert_allclose(info["block_pose"], state[2:5], atol=1e-9)
        return np.asarray(observation["pixels"])

    def step(self, action: NDArray[np.float32]) -> State:
        """The pose ``(5,)`` of agent and block after a control step."""
        info = self.env.step(action)[-1]
        return np.array([*info["pos_agent"], *info["block_pose"]])


def compare_pictures(public: PublicPushT, num: int, seed: int) -> tuple[dict[str, Any], Image.Image]:
    """Differences of pictures of `num` random states, and a few of them: theirs, those here, and the plain ones."""
    env, plain = PushTEnv(image_size=96, look="gym-pusht"), PushTEnv(image_size=96)
    env.reset(seed=seed)
    differences, shown = [], []
    for number in range(num):
        state = env.sample_state()
        pictures = public.reset(state), env.picture(state), plain.picture(state)
        differences.append([np.abs(picture.astype(int) - pictures[0]).mean() for picture in pictures[1:]])
        if number < SHOWN:
            large = [Image.fromarray(picture).resize((PANEL, PANEL), Image.Resampling.NEAREST) for picture in pictures]
            shown.append(np.concatenate([np.asarray(picture) for picture in large], axis=1))
    looks, plains = np.transpose(differences)
    numbers = {"n": num, "mean_of_255": looks.mean(), "most_of_255": looks.max(), "plain_mean_of_255": plains.mean()}
    return numbers, Image.fromarray(np.concatenate(shown))


def compare_poses(public: PublicPushT, num: int, env_steps: int, seed: int) -> dict[str, Any]:
    """Differences of poses after `env_steps` of the same absolute actions, in `num` episodes of scripted play."""
    env = PushTEnv(image_size=16, control_mode="absolute", terminate_on_success=False)
    rows = []
    for episode in range(num):
        _, info = env.reset(seed=seed + episode)
        start = state = info["state"]
        public.reset(state)
        policy, agent_px = PlayPolicy(np.random.default_rng(seed + episode)), 0.0
        for _ in range(env_steps):
            action = env.scripted_action(policy({"state": state}), state)
            theirs, state = public.step(action), env.step(action)[-1]["state"]
            agent_px = max(agent_px, math.dist(state[:2], theirs[:2]))
        block_px, angle = math.dist(state[2:4], theirs[2:4]), math.degrees(abs(state[4] - theirs[4]))
        rows.append((agent_px, block_px, angle, math.dist(state[2:4], start[2:4])))
    agent, block, angles, moved = np.transpose(rows)
    return {
        "n": num,
        "env_steps": env_steps,
        "agent_px": {"most": agent.max()},
        "block_px": _spread(block),
        "angle_deg": _spread(angles),
        "block_moved_px": _spread(moved),
    }


def _spread(values: ArrayLike) -> dict[str, float]:
    median, ninth, most = np.quantile(values, (0.5, 0.9, 1.0))
    return {"median": float(median), "of_nine_in_ten": float(ninth), "most": float(most)}


def main(
    out: Annotated[Path, typer.Option(help="JSON file to write; a PNG goes beside it.")] = Path("public.json"),
    states: Annotated[int, typer.Option(min=SHOWN, help="States whose pictures are compared.")] = 200,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes whose poses are compared.")] = 100,
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps of an episode.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Source of states and actions.")] = 0,
) -> None:
    """Compares Push-T with gym-pusht."""
    public = PublicPushT()
    pictures, image = compare_pictures(public, states, seed)
    results = {
        "command": command_line(),
        **machine(),
        "gym-pusht": version("gym-pusht"),
        "pictures": pictures,
        "poses": compare_poses(public, episodes, env_steps, seed),
    }
    write_text(out, json.dumps(results, indent=1) + "\n")
    with replacing(out.with_suffix(".png")) as partial:
        image.save(partial, "PNG")


if __name__ == "__main__":
    typer.run(main)
