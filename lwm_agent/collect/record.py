"""Records episodes under a scripted policy, a random one or an agent, in parallel, reproducibly, resumably."""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..data.pictures import area_resize
from ..data.schema import Episode, partial_path
from ..data.trajectories import Progress
from ..data.writer import TrajectoryWriter, check_output
from ..envs import ENVS
from ..envs.base import GoalImageEnv
from ..envs.opengl import opengl_errors
from ..envs.shifts import shifted
from ..errors import MachineError, UserError
from ..validation import check_arguments
from .config import CollectConfig
from .workers import ordered_map

if TYPE_CHECKING:
    from .agent_policy import AgentDataPolicy

DataPolicy = Callable[[dict[str, Any]], Any]
"""``info`` to the action to take, in environment units; None where the episode is over, after its first step."""

ActionSpace = gym.spaces.Box | gym.spaces.Discrete


def collect(config: CollectConfig, progress: Progress | None = None) -> Path:
    """Records the data set and returns its path; call it again after an interruption to go on where it stopped.

    `progress` is called with episodes done and their number. Raises `DatasetError` if `out` cannot be written or was
    begun with other settings, `UserError` if the environment cannot be recorded, `MachineError` if a worker process
    dies. Warns (`UserWarning`) of frames of a size that not every model takes.
    """
    check_output(config.out, config.overwrite)
    if config.size_warning:
        warnings.warn(config.size_warning, stacklevel=2)
    with ExitStack() as stack:
        space = check_env(config)
        record: Callable[[int], Episode] = partial(_record, config)
        if config.workers == 1:
            recorder = stack.enter_context(closing(Recorder(config)))
            record, origin = recorder.record, recorder.origin
        else:
            origin = _origin(config)
        writer = stack.enter_context(_writer(config, space, origin))
        _write_episodes(config, record, writer, progress)
    return Path(config.out)


def _write_episodes(
    config: CollectConfig, record: Callable[[int], Episode], writer: TrajectoryWriter, progress: Progress | None
) -> None:
    """Records the episodes that the file lacks, in their order."""
    try:
        with closing(ordered_map(record, range(writer.num_episodes, config.episodes), config.workers)) as episodes:
            for episode in episodes:
                writer.add(*episode)
                if progress is not None:
                    progress(writer.num_episodes, config.episodes)
    except BrokenProcessPool as error:
        raise MachineError(
            f"a worker process died (killed, or out of memory?); the episodes so far are in "
            f"{partial_path(Path(config.out))}: collect again to go on. In a script, call collect() under "
            "`if __name__ == '__main__':`"
        ) from error


def check_env(config: CollectConfig) -> ActionSpace:
    """Action space of the environment; refuses an environment that cannot be recorded, before anything is written."""
    with opengl_errors(), closing(make_env(config)) as env:  # foreign environments may draw with MuJoCo too
        space = _checked_space(env, config)
        observation, _ = env.reset(seed=0)
        read_frame(env, observation, config)
    return space


def _origin(config: CollectConfig) -> dict[str, Any]:
    """Attributes of the file that identify the agent, if one acts."""
    if config.checkpoint is None:
        return {}
    from .agent_policy import AgentDataPolicy  # torch

    with closing(AgentDataPolicy(config)) as policy:
        return policy.origin


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
            **({"shifts": " ".join(config.shift)} if config.shift else {}),
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
        self._agent: AgentDataPolicy | None = None
        if config.checkpoint is not None:
            from .agent_policy import AgentDataPolicy  # torch

            self._agent = AgentDataPolicy(config)
        self._env = make_env(config)
        self._frame_shape: tuple[int, ...] | None = None
        self.action_space = _checked_space(self._env, config)

    @property
    def origin(self) -> dict[str, Any]:
        """Attributes of the file that identify the agent, if one acts."""
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
            if action is None:
                break
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

    def _frame(self, observation: Any) -> NDArray[np.uint8]:
        """Copy of the present frame ``(h, h, 3)``; all frames must be drawn at one size."""
        frame = read_frame(self._env, observation, self._config)
        self._frame_shape = self._frame_shape or frame.shape
        if frame.shape != self._frame_shape:
            sizes = f"{self._frame_shape} and of {frame.shape}"
            raise UserError(f"env={self._config.env!r} shows frames of {sizes}: all must have one size")
        return area_resize(frame, self._config.image_size)

    def _policy(self, rng: np.random.Generator) -> Callable[[Any, dict[str, Any]], Any]:
        """Policy of one episode: observation and info to action, None where the episode is over."""
        config, space = self._config, self.action_space
        if self._agent is not None:
            return self._agent.policy(self._env, rng)
        if config.policy == "random":
            if isinstance(space, gym.spaces.Discrete):
                return lambda observation, info: rng.integers(space.n)
            return lambda observation, info: rng.uniform(space.low, space.high).astype(np.float32)
        assert config.spec is not None
        policy: DataPolicy = pkgutil.resolve_name(config.spec.policies[config.policy])(rng)
        simulator = cast(GoalImageEnv, self._env.unwrapped)

        def act(observation: Any, info: dict[str, Any]) -> NDArray[np.float32] | None:
            action = policy(info)
            return None if action is None else simulator.scripted_action(action, info["state"])

        return act


def read_frame(env: gym.Env[Any, Any], observation: Any, config: CollectConfig) -> NDArray[np.uint8]:
    """Present frame ``(h, w, 3)``: part of the observation of our environments, drawn by any other."""
    frame = observation["pixels"] if config.spec else env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        kind = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else repr(frame)[:60]
        raise UserError(
            f"env={config.env!r} shows {kind} as its frame: `render()` with render_mode='rgb_array' must return a "
            "uint8 colour picture (h, w, 3)"
        )
    if 0 in frame.shape:
        raise UserError(f"env={config.env!r} shows an empty frame of shape {frame.shape}")
    return frame


def make_env(config: CollectConfig) -> gym.Env[Any, Any]:
    """The environment to record: one of ours never stops early, any other shows itself by ``render()``.

    Raises:
        UserError: there is no such environment, or it refuses its arguments.
    """
    own: dict[str, Any] = {"render_mode": "rgb_array"}
    if config.spec:
        steps, size = config.episode_env_steps, config.image_size
        own = {"max_episode_steps": steps, "image_size": size, "terminate_on_success": False}
        made = pkgutil.resolve_name(config.spec.entry_point)
        if isinstance(made, type):
            check_arguments("env_kwargs", made, config.env_kwargs)
    try:
        env = gym.make(config.env_id, disable_env_checker=True, **own, **config.env_kwargs)
    except UserError:
        raise
    except (gym.error.Error, ImportError) as error:  # an unknown name or module
        choices = ", ".join(ENVS)
        raise UserError(f"env={config.env!r} cannot be made ({error}): choose {choices} or a Gymnasium id") from error
    except Exception as error:  # an environment may refuse its arguments in any way
        if not config.env_kwargs and not isinstance(error, TypeError):
            raise
        raise UserError(f"env_kwargs={dict(config.env_kwargs)} do not fit {config.env} ({error})") from error
    return shifted(env, config.shift, config.env) if config.spec else env


def _row(space: ActionSpace, action: Any) -> NDArray[np.float32]:
    """Action as data hold it, a copy: a discrete one is one-hot."""
    if isinstance(space, gym.spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[action]
    return np.array(action, np.float32)


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
    """Privileged state: ``info["state"]``, or an observation that is a vector; None where there is neither."""
    state = info.get("state", observation)
    return np.array(state, np.float64) if isinstance(state, np.ndarray) and state.ndim == 1 else None


@lru_cache(maxsize=1)
def _worker_recorder(config: CollectConfig) -> Recorder:
    return Recorder(config)


def _record(config: CollectConfig, index: int) -> Episode:
    return _worker_recorder(config).record(index)
