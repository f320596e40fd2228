"""The grid of a comparison: entrants and cells, each cell an ordinary evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..agent.config import counts_iterations
from ..checkpoint import find_checkpoint, shipped_checkpoints
from ..checkpoint_config import read_config
from ..envs import name_of
from ..errors import UserError
from ..eval import TaskSet
from ..eval.comparison import CEILING, FLOORS, POLICY, CellKey, Limit
from ..eval.tasks import DRAWN
from ..models import WorldModel, find_model
from .comparison_config import CompareConfig
from .config import EvalConfig

ACTOR = "-actor"
"""End of an entrant's name: the checkpoint of the name before it, acting by its own policy."""
SHIPPED = {"lewm": "tiny"}
"""Names of models in a comparison whose checkpoints have another name in the package."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A checkpoint in a comparison.

    Attributes:
        model: name in tables.
        env: environment.
        training_seed: its number among the checkpoints of that name.
        checkpoint: folder, or name of the package's own.
        reactive: whether it acts by its own policy, without a search.
    """

    model: str
    env: str
    training_seed: int
    checkpoint: str
    reactive: bool


@dataclass(frozen=True)
class Job:
    """A cell to play.

    Attributes:
        key: its place.
        config: the evaluation.
    """

    key: CellKey
    config: EvalConfig

    @property
    def result(self) -> Path:
        """File of its results."""
        return self.config.output_dir / "results.json"


def find_entrants(config: CompareConfig) -> list[Entrant]:
    """The entrants of every environment, in the order of the command.

    Raises:
        UserError: a checkpoint is not there, was trained for an environment that is not compared, or is named twice.
    """
    entrants: list[Entrant] = []
    for word in config.model:
        name, equals, folder = word.partition("=")
        if not name or (equals and not folder):
            raise UserError(f"--model {word!r} is not understood: write NAME or NAME=FOLDER")
        for env, checkpoint in _own(config, folder) if equals else _packaged(config, name):
            seed = sum((entrant.model, entrant.env) == (name, env) for entrant in entrants)
            entrants.append(Entrant(
                model=name, env=env, training_seed=seed, checkpoint=checkpoint, reactive=_reactive(name, checkpoint)
            ))  # fmt: skip
    places = [(entrant.model, entrant.env, entrant.checkpoint) for entrant in entrants]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"--model {twice[0]} is named twice with the same checkpoint {twice[2]}: leave one out")
    return entrants


def _packaged(config: CompareConfig, name: str) -> Iterator[tuple[str, str]]:
    """The package's own checkpoint of `name` in each environment."""
    base = name.removesuffix(ACTOR)
    for env in config.env:
        checkpoint = f"{name_of(env)}-{SHIPPED.get(base, base)}"
        if checkpoint not in shipped_checkpoints():
            raise UserError(
                f"--model {name}: the package has no checkpoint {checkpoint!r} (it has "
                f"{', '.join(shipped_checkpoints())}): train one and pass --model {name}=FOLDER, or "
                f"leave out --env {env}"
            )
        yield env, checkpoint


def _own(config: CompareConfig, folder: str) -> Iterator[tuple[str, str]]:
    """The checkpoint in `folder`, and the environment that it was trained for."""
    place = find_checkpoint(folder)
    env = name_of(read_config(place)["env"])
    typed = next((typed for typed in config.env if name_of(typed) == env), None)
    if typed is None:
        raise UserError(f"{folder} was trained for {env}, not for {' or '.join(config.env)}: pass --env {env} too")
    yield typed, str(place.resolve())


def _reactive(name: str, checkpoint: str) -> bool:
    """True if an entrant does not search: by its name, or because its model cannot imagine."""
    if name.endswith(ACTOR):
        return True
    model = find_model(read_config(find_checkpoint(checkpoint))["model"]).model
    return not issubclass(model, WorldModel)


def limits_of(config: CompareConfig) -> list[Limit]:
    """The budgets to compare within; without one, where none is named."""
    limits = [Limit("flops", value) for value in config.budget_flops]
    limits += [Limit("ms", value) for value in config.budget_ms]
    return limits + ([Limit()] if config.unlimited or not limits else [])


@dataclass(frozen=True)
class Tasks:
    """Tasks that are compared: those of the package, or a file.

    Attributes:
        env: environment.
        offset: environment steps from start to goal.
        file: the file, None for those of the package.
    """

    env: str
    offset: int
    file: Path | None = None


def find_tasks(config: CompareConfig) -> list[Tasks]:
    """The sets of tasks, in the order of the command.

    Raises:
        UserError: a file is of an environment that is not compared, or two are of the same environment and offset.
    """
    if not config.tasks:
        return [Tasks(env, offset) for env in config.env for offset in config.offset]
    found: list[Tasks] = []
    for path in config.tasks:
        task_set = TaskSet.load(path)
        env = next((env for env in config.env if name_of(env) == task_set.env), None)
        if env is None:
            raise UserError(
                f"--tasks {path} is of {task_set.env}, which is not compared: pass --env {task_set.env} too"
            )
        if any((tasks.env, tasks.offset) == (env, task_set.offset_env_steps) for tasks in found):
            raise UserError(f"--tasks {path} is another file of {env} at offset {task_set.offset_env_steps}: name one")
        found.append(Tasks(env, task_set.offset_env_steps, path.absolute()))
    return found


def make_jobs(config: CompareConfig, entrants: Sequence[Entrant]) -> list[Job]:
    """All cells of the models, in the order of environments, offsets, models, planners and budgets."""
    cells = [
        (CellKey(env=tasks.env, offset=tasks.offset, model=entrant.model, planner=planner, limit=limit,
                 training_seed=entrant.training_seed), entrant, tasks)
        for tasks in find_tasks(config)
        for entrant in entrants if entrant.env == tasks.env
        for planner in ((POLICY,) if entrant.reactive else config.planner)
        for limit in ((Limit(),) if entrant.reactive else limits_of(config))
    ]  # fmt: skip
    filmed = limits_of(config)[-1]
    return [
        _job(config, key, tasks, entrant.checkpoint, config.video if entrant.reactive or key.limit == filmed else 0)
        for key, entrant, tasks in cells
    ]


def make_floor_jobs(config: CompareConfig) -> list[Job]:
    """Cells of the policies without a model: the floors and the ceiling."""
    names = FLOORS if config.protocol in DRAWN else (*FLOORS, CEILING)  # nobody has reached drawn goals
    return [
        _job(config, CellKey(env=tasks.env, offset=tasks.offset, model=name, planner=name), tasks, None, 0)
        for tasks in find_tasks(config)
        for name in names
    ]


def folder_of(key: CellKey) -> Path:
    """Folder of a cell's evaluation, below that of the comparison."""
    limit = key.limit.unit if key.limit.unit == "none" else f"{key.limit.unit}-{key.limit.value:.12g}"
    model = f"{quote(key.model, safe='')}-{key.training_seed}"
    return Path("cells") / f"{quote(key.env, safe='')}-{key.offset}" / model / f"{quote(key.planner, safe='+')}-{limit}"


def _settings_of(config: CompareConfig, key: CellKey) -> dict[str, Any]:
    """Arguments of a cell's planner: a number of iterations is for the cells without a budget, if there are any."""
    settings = config.settings_of(key.planner)
    if key.limit == Limit() or Limit() not in limits_of(config):
        return settings
    return {name: value for name, value in settings.items() if not counts_iterations(name)}


def _job(config: CompareConfig, key: CellKey, tasks: Tasks, checkpoint: str | None, video: int) -> Job:
    timed = key.limit.unit == "ms"
    evaluation = EvalConfig(
        env=key.env,
        planner=key.planner,
        checkpoint=checkpoint,
        seed=config.seed,
        device=config.device,
        budget_flops=key.limit.value if key.limit.unit == "flops" else None,
        budget_ms=key.limit.value if timed else None,
        planner_settings=_settings_of(config, key),
        agent_settings=config.agent_settings if checkpoint is not None else {},
        protocol=config.protocol,
        split=config.split,
        offset=key.offset,
        tasks=tasks.file,
        episodes=config.episodes,
        batch_size=1 if timed else config.batch_size,
        output_dir=(config.out / folder_of(key)).absolute(),
        video=video,
        with_floors=False,
        overwrite=config.overwrite,
    )
    return Job(key, evaluation)
