"""Records episodes under a scripted policy, a random one or an agent, in parallel, reproducibly, resumably."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import __version__
from ..data.schema import partial_path
from ..data.trajectories import Episode, Progress
from ..data.writer import TrajectoryWriter
from ..envs import ENVS, EnvSpec, spec_of
from ..errors import MachineError, UserError
from .workers import ordered_map

if TYPE_CHECKING:
    from .agent_policy import RecordedAgent

DataPolicy = Callable[[dict[str, Any]], Any]
"""``info`` to the action to take, in environment units."""

ActionSpace = gym.spaces.Box | gym.spaces.Discrete


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What to record. The file depends on everything but `out`, `workers` and `overwrite`.

    What an agent does depends on the rounding of its sums too: on the processor, and on whether it has all of it
    (`workers` 1) or one thread.

    Attributes:
        out: HDF5 file to write.
        env: a name of `ENVS`, or any Gymnasium id; the latter is filmed by ``render()``.
        policy: a scripted policy of the environment (`EnvSpec.policies`), or "random": uniform over the action space;
            with `checkpoint`, the planner of an agent.
        checkpoint: world model of that agent, a folder or a name.
        offset: an agent's goals are where scripted play gets in so many environment steps from where it is; for each
            it has twice as many steps, as in evaluations. None is 25.
        episodes: how many.
        episode_env_steps: steps of an episode; only environments that end by themselves stop sooner.
        seed: episode i is a function of (seed, i).
        workers: processes; 1 records in the calling one.
        image_size: side of the frames, px.
        env_kwargs: for ``gymnasium.make``; must fit in JSON.
        planner_settings: arguments of an agent's planner.
        agent_settings: arguments of `Agent`.
        device: where the agent computes: "auto", "cpu", "cuda" or "mps".
        overwrite: replace `out`, or what an interrupted collection left of it.
    """

    out: str | Path
    env: str = "pusht"
    policy: str = "play"
    checkpoint: str | None = None
    offset: int | None = None
    episodes: int = 1000
    episode_env_steps: int = 150
    seed: int = 0
    workers: int = 2
    image_size: int = 64
    env_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    planner_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    agent_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("goal_offset", "episodes", "episode_env_steps", "workers", "image_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.removeprefix('goal_')}={getattr(self, name)} must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative")
        taken = self.env_kwargs.keys() & {"image_size", "render_mode", "terminate_on_success"}
        if taken:
            raise UserError(f"env_kwargs must not set {', '.join(sorted(taken))}: collect does")
        if self.checkpoint is not None:
            if self.spec is None:
                known = ", ".join(ENVS)
                raise UserError(
                    f"checkpoint={self.checkpoint!r}: an agent can be recorded in {known}, not in {self.env}"
                )
            own = self.agent_settings.keys() & {"deadline_env_steps", "seed", "device", "budget"}
            if own:
                raise UserError(f"agent settings must not name {', '.join(sorted(own))}: offset, seed and device do")
            return  # the agent knows the names of its planners
        if self.planner_settings or self.agent_settings or self.offset is not None:
            raise UserError("an offset and settings of planner or agent need an agent: name its checkpoint too")
        policies = ["random", *(self.spec.policies if self.spec else ())]
        if self.policy not in policies:
            choices = f"choose one of {', '.join(policies)}, or a planner, with a checkpoint"
            raise UserError(f"policy={self.policy!r} is unknown for {self.env}: {choices}")

    @property
    def goal_offset(self) -> int:
        """Environment steps of scripted play to an agent's goal."""
        return 25 if self.offset is None else self.offset

    @property
    def spec(self) -> EnvSpec | None:
        """The package's own environment that `env` names, if it does."""
        return spec_of(self.env)

    @property
    def env_id(self) -> str:
        """Its Gymnasium id."""
        return self.spec.env_id if self.spec else self.env

    @property
    def all_env_kwargs(self) -> dict[str, Any]:
        """`env_kwargs`, and the defaults of what they leave open: a file tells its fidelity whoever wrote it."""
        own = {**self.spec.conventions, "image_size": self.image_size} if self.spec else {}
        return {**own, **self.env_kwargs}


def collect(config: CollectConfig, progress: Progress | None = None) -> Path:
    """Records the data set and returns its path; call it again after an interruption to go on where it stopped.

    `progress` is called with episodes done and their number. Raises `DatasetError` if `out` exists or was begun with
    other settings, `ValueError` if the environment cannot be recorded, `RuntimeError` if a worker process dies.
    """
    out = Path(config.out)
    with closing(Recorder(config)) as recorder, _writer(config, recorder.action_space, recorder.origin) as writer:
        record = recorder.record if config.workers == 1 else partial(_record, config)
        try:
            with closing(ordered_map(record, range(writer.num_episodes, config.episodes), config.workers)) as episodes:
                for episode in episodes:
                    writer.add(*episode)
                    if progress is not None:
                        progress(writer.num_episodes, config.episodes)
        except BrokenProcessPool as error:
            raise MachineError(
                f"a worker process died (killed, or out of memory?); the episodes so far are in {partial_path(out)}: "
                "collect again to go on. In a script, call collect() under `if __name__ == '__main__':`"
            ) from error
    return out


def _writer(config: CollectConfig, space: ActionSpace, origin: dict[str, Any]) -> TrajectoryWriter:
    low: NDArray[Any]
    high: NDArray[Any]
    if isinstance(space, gym.spaces.Discrete):
        low, high = np.zeros(int(space.n)), np.ones(int(space.n))
    else:
        low, high = space.low, space.high
    return TrajectoryWriter(
        config.out,
        env_id=config.env_id,
        env_kwargs=config.all_env_kwargs,
        action_low=low,
        action_high=high,
        discrete=isinstance(space, gym.spaces.Discrete),
        attributes={
            "policy": config.policy,
            **origin,
            "seed": config.seed,
            "episodes": config.episodes,
            "episode_env_steps": config.episode_env_steps,
            "image_size": config.image_size,
            "lwm_agent_version": __version__,
        },
        resume=not config.overwrite,
        overwrite=config.overwrite,
    )


class Recorder:
    """An environment and a policy; `record` plays one episode."""

    def __init__(self, config: CollectConfig) -> None:
        self._config = config
        self._agent: RecordedAgent | None = None
        if config.checkpoint is not None:
            from .agent_policy import RecordedAgent  # torch

            self._agent = RecordedAgent(config)
        self._env = make_env(config)
        self.action_space = _checked_space(self._env, config)

    @property
    def origin(self) -> dict[str, Any]:
        """Which agent acts, if one does."""
        return {} if self._agent is None else self._agent.origin

    def record(self, index: int) -> Episode:
        """Episode number `index`."""
        config = self._config
        env_seed, policy_seed = np.random.SeedSequence([config.seed, index]).spawn(2)
        policy = self._policy(np.random.default_rng(policy_seed))
        observation, info = self._env.reset(seed=int(env_seed.generate_state(1)[0]))
        actions: list[NDArray[np.float32]] = []
        frames, states = [self._frame(observation)], [_state(observation, info)]
        ended = False
        while len(actions) < config.episode_env_steps and not ended:
            action = policy(observation, info)
            if not self.action_space.contains(action):
                raise UserError(f"policy {config.policy!r} took {action!r}, which is not in {self.action_space}")
            observation, _, terminated, truncated, info = self._env.step(action)
            ended = terminated or truncated
            actions.append(_row(self.action_space, action))
            frames.append(self._frame(observation))
            states.append(_state(observation, info))
        state = None if states[0] is None else np.array(states, np.float64)
        return Episode(np.stack(frames), np.stack(actions).astype(np.float32), state)

    def close(self) -> None:
        """Closes the environments."""
        self._env.close()
        if self._agent is not None:
            self._agent.close()

    def _policy(self, rng: np.random.Generator) -> Callable[[Any, dict[str, Any]], Any]:
        """What to do in one episode, after an observation and an info."""
        config, space = self._config, self.action_space
        if self._agent is not None:
            return self._agent.policy(self._env, rng)
        if config.policy == "random":
            if isinstance(space, gym.spaces.Discrete):
                return lambda observation, info: rng.integers(space.n)
            return lambda observation, info: rng.uniform(space.low, space.high).astype(np.float32)
        assert config.spec is not None
        policy: DataPolicy = pkgutil.resolve_name(config.spec.policies[config.policy])(rng)
        return lambda observation, info: policy(info)

    def _frame(self, observation: Any) -> NDArray[np.uint8]:
        if self._config.spec:
            frame: NDArray[np.uint8] = observation["pixels"]
            return frame
        return area_resize(self._env.render(), self._config.image_size)  # type: ignore[arg-type]


def make_env(config: CollectConfig) -> gym.Env[Any, Any]:
    """The environment to record: one of ours never stops early, any other shows itself by ``render()``."""
    if config.spec:
        return gym.make(
            config.env_id,
            max_episode_steps=config.episode_env_steps,
            disable_env_checker=True,
            image_size=config.image_size,
            terminate_on_success=False,
            **config.env_kwargs,
        )
    try:
        return gym.make(config.env_id, render_mode="rgb_array", disable_env_checker=True, **config.env_kwargs)
    except gym.error.Error as error:
        choices = ", ".join(ENVS)
        raise UserError(f"env={config.env!r} cannot be made ({error}): choose {choices} or a Gymnasium id") from error


def area_resize(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture ``(h, w, 3)`` as ``(size, size, 3)``, each pixel the mean of the area that it covers."""
    if frame.shape == (size, size, 3):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


def _row(space: ActionSpace, action: Any) -> NDArray[np.float32]:
    """An action as data hold it: a discrete one is one-hot."""
    if isinstance(space, gym.spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[action]
    row: NDArray[np.float32] = action
    return row


def _checked_space(env: gym.Env[Any, Any], config: CollectConfig) -> ActionSpace:
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise UserError(
            f"{config.env} acts in {space}: only a Box of one axis, or a Discrete from 0, can be planned in"
        )
    if config.policy == "random" and not space.is_bounded():
        raise UserError(f"policy 'random' needs a bounded action space, {config.env} has {space}")
    return space


def _state(observation: Any, info: dict[str, Any]) -> NDArray[np.float64] | None:
    """What the simulator says of itself: ``info["state"]``, or an observation that is a vector."""
    state = info.get("state", observation)
    return np.array(state, np.float64) if isinstance(state, np.ndarray) and state.ndim == 1 else None


@lru_cache(maxsize=1)
def _worker_recorder(config: CollectConfig) -> Recorder:
    return Recorder(config)


def _record(config: CollectConfig, index: int) -> Episode:
    return _worker_recorder(config).record(index)
