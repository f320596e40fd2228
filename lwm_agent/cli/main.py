"""The command line: one function a command, which turns options into a configuration and results into text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..envs import ENVS

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
console = Console(markup=False)  # paths may have brackets

# Not read off the registry: that would import torch for every --help.
PLANNERS_HELP = (
    "cem, icem, mppi, predictive-sampling, random-shooting, gradient, sgd, lbfgs, grasp, two in a row (cem+gradient); "
    "guided and actor, with a learned proposal; categorical-cem, for discrete actions"
)
PLANNER_DEFAULT = "(default: guided; without a trained actor, cem; for discrete actions, categorical-cem)"
PlannerOption = Annotated[str | None, typer.Option(help=f"{PLANNERS_HELP}; or random, none, replay {PLANNER_DEFAULT}.")]
ModelPlannerOption = Annotated[str | None, typer.Option(help=f"{PLANNERS_HELP} {PLANNER_DEFAULT}.")]
EnvOption = Annotated[str, typer.Option(help=f"Environment: {', '.join(ENVS)}.")]
SeedOption = Annotated[int, typer.Option(help="Source of every random choice.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="GROUP.NAME=VALUE", help="Any other setting; may be repeated.")
]
RolloutsOption = Annotated[int | None, typer.Option("--budget-rollouts", help="Candidate rollouts of a plan.")]
IterationsOption = Annotated[int | None, typer.Option("--budget-iterations", help="Iterations of a plan.")]
FlopsOption = Annotated[float | None, typer.Option("--budget-flops", help="Floating-point operations of a plan.")]
MillisecondsOption = Annotated[
    float | None, typer.Option("--budget-ms", help="Milliseconds of a planning call (a batch).")
]
CheckpointOption = Annotated[str | None, typer.Option(help="Folder or name (default: the package's own).")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
TrainedOption = Annotated[str, typer.Option(help="Folder of a trained world model, or a name.")]
FilesOption = Annotated[list[Path], typer.Option("--data", help="HDF5 file of trajectories; may be given again.")]
PartOutOption = Annotated[Path | None, typer.Option(help="Folder for the new checkpoint (default: the same).")]
StepsOption = Annotated[int | None, typer.Option(help="Optimisation steps (default: the command's own).")]


def main() -> None:
    """Runs the command line; mistakes in its use are told in a line, without a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError) as error:
        message = Text.assemble(("error", "bold red"), f" {error}")  # no markup: [plot] is the name of an extra
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "interrupted: run it again; collect, eval, train-heads and train-predictor go on where they stopped, "
            "train with --resume"
        )
        raise SystemExit(130) from None


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Model-based planning with latent world models."""
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def collect(
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    env: Annotated[str, typer.Option(help=f"{', '.join(ENVS)}, or any Gymnasium id that renders rgb_array.")] = "pusht",
    policy: Annotated[
        str, typer.Option(help="play (scripted), noisy or mixed (both), random; or a planner, of --checkpoint's agent.")
    ] = "play",
    checkpoint: Annotated[str | None, typer.Option(help="World model of the agent that acts.")] = None,
    offset: Annotated[int | None, typer.Option(help="An agent's goals are so many steps of play ahead (25).")] = None,
    device: DeviceOption = "auto",
    episodes: Annotated[int, typer.Option(help="Episodes to record.")] = 1000,
    episode_env_steps: Annotated[int, typer.Option(help="Environment steps of an episode.")] = 150,
    seed: SeedOption = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    image_size: Annotated[int, typer.Option(help="Side of the frames, px.")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    settings: SetOption = None,
) -> None:
    """Record episodes. Interrupted? The same command resumes. [dim]--set env.NAME=VALUE, agent.NAME, planner.NAME[/]"""
    from ..collect.record import CollectConfig
    from ..collect.record import collect as run
    from .settings import parse_settings

    given = parse_settings(settings or [], ("env", "agent", "planner"))
    config = CollectConfig(
        out=out,
        env=env,
        policy=policy,
        checkpoint=checkpoint,
        offset=offset,
        device=device,
        episodes=episodes,
        episode_env_steps=episode_env_steps,
        seed=seed,
        workers=workers,
        image_size=image_size,
        env_kwargs=given["env"],
        planner_settings=given["planner"],
        agent_settings=given["agent"],
        overwrite=overwrite,
    )
    with _bar("collecting", "episodes") as update:
        run(config, update)
    console.print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="visual-cube-single-play-v0.npz or another of its kind.")],
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
) -> None:
    """Make a file of trajectories from one of OGBench's visual-cube-single data sets: once, in minutes."""
    from ..data.ogbench_npz import convert as run

    with _bar("converting", "frames") as update:
        run(source, out, update)
    console.print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB); train on it with --env cube")


@app.command()
def train(
    data: FilesOption,
    out: Annotated[Path, typer.Option(help="Folder of the run; the checkpoint goes to OUT/checkpoint.")],
    env: EnvOption = "pusht",
    preset: Annotated[str, typer.Option(help="tiny (64 px, for CPUs) or base (the paper's, 224 px).")] = "tiny",
    steps: Annotated[int | None, typer.Option(help="Optimisation steps (default: the preset's).")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    num_devices: Annotated[int, typer.Option(help="Processes that train together.")] = 1,
    precision: Annotated[str, typer.Option(help="bf16-mixed, 32-true, or auto: what is faster.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in OUT.")] = False,
    track: Annotated[bool, typer.Option("--track", help="Log to Weights & Biases too.")] = False,
    settings: SetOption = None,
) -> None:
    """Train a LeWorldModel from pixels and actions. [dim]--set model.NAME=VALUE, --set train.NAME=VALUE[/]"""
    from ..training.config import TrainConfig
    from ..training.train import Progress as Step
    from ..training.train import train as run
    from .settings import parse_settings

    given = parse_settings(settings or [], ("model", "train"))
    config = TrainConfig.from_preset(
        preset,
        data=tuple(map(str, data)),
        out=str(out),
        env=env,
        seed=seed,
        device=device,
        num_devices=num_devices,
        precision=precision,
        track=track,
        model=given["model"],
        **({} if steps is None else {"steps": steps}),
        **given["train"],
    )
    with _bar("training", "steps") as update:

        def show(step: Step) -> None:
            losses = "  ".join(f"{name} {value:.4f}" for name, value in step.losses.items())
            update(step.step, config.steps, losses)

        checkpoint = run(config, resume=resume, on_step=show)
    _show_metrics(checkpoint.training["validation"])
    trial = f"; try `lwm-agent eval --env {env} --checkpoint {out / 'checkpoint'}`" if env in ENVS else ""
    console.print(f"wrote {out / 'checkpoint'}{trial}")


@app.command("train-heads")
def train_heads(
    checkpoint: TrainedOption,
    data: FilesOption,
    out: PartOutOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Train an actor and a temporal distance on a world model's latents. [dim]--set heads.NAME=VALUE[/]"""
    from ..training.config import HeadsConfig
    from ..training.heads import train_heads as run

    given = _part_settings(("heads",), checkpoint, data, out, steps, seed, device, settings)
    with _bars() as update:
        trained = run(HeadsConfig(**given), update)
    _show_metrics(trained.training["heads"]["validation"])
    console.print(f"wrote the heads into {out or checkpoint}; planners now start from the actor's proposal")


@app.command("train-predictor")
def train_predictor(
    checkpoint: TrainedOption,
    data: FilesOption,
    out: PartOutOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Train the predictor on, its encoder frozen, or a new one (--set model.predictor=mlp).

    [dim]--set predictor.NAME=VALUE, model.NAME=VALUE[/]
    """
    from ..training.config import PredictorConfig
    from ..training.predictor import train_predictor as run

    given = _part_settings(("predictor", "model"), checkpoint, data, out, steps, seed, device, settings)
    with _bars() as update:
        trained = run(PredictorConfig(**given), update)
    _show_metrics(trained.training["predictor"]["validation"])
    console.print(f"wrote {out or checkpoint}")


@app.command()
def recommend(
    checkpoint: TrainedOption,
    cost: Annotated[str, typer.Option(help="As agent.cost; choose it on validation tasks.")],
    out: PartOutOption = None,
) -> None:
    """Store in a checkpoint the planning cost that agents use unless told otherwise."""
    from dataclasses import replace

    from ..agent.agent import Agent
    from ..checkpoint import Checkpoint, target
    from ..model_card import model_card

    folder, changed = target(checkpoint, out), replace(Checkpoint.load(checkpoint), cost=cost)
    Agent(changed, device="cpu")  # refuses a cost that it cannot use
    changed.save(folder, model_card(changed))
    console.print(f"agents now minimise {cost} with {folder}")


@app.command("eval")
def evaluate(
    env: EnvOption = "pusht",
    planner: PlannerOption = None,
    checkpoint: CheckpointOption = None,
    protocol: Annotated[
        str, typer.Option(help="strict, or lewm-paper (50 tasks, unfiltered, CEM 300 x 30).")
    ] = "strict",
    split: Annotated[str, typer.Option(help="test, or val for tuning.")] = "test",
    offset: Annotated[int, typer.Option(help="Environment steps from start to goal: 25, 50, 75 or 100.")] = 25,
    tasks: Annotated[Path | None, typer.Option(help="Task file to use instead, of the same protocol.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Use the first so many tasks (default: all).")] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(help="Episodes in lock-step.")] = 50,
    device: DeviceOption = "auto",
    budget_rollouts: RolloutsOption = None,
    budget_iterations: IterationsOption = None,
    budget_flops: FlopsOption = None,
    budget_ms: MillisecondsOption = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where results go (default: out/ and the options).")] = None,
    video: Annotated[int, typer.Option(help="Film the first so many episodes.")] = 0,
    with_floors: Annotated[bool, typer.Option("--floors/--no-floors", help="Run random and do-nothing too.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other results in the folder.")] = False,
    settings: SetOption = None,
) -> None:
    """Evaluate a planner on frozen tasks. [dim]--set planner.NAME=VALUE, agent.NAME=VALUE, env.NAME=VALUE[/]"""
    from ..agent.config import planner_for
    from ..eval import table
    from ..experiments.config import EvalConfig, protocol_settings
    from ..experiments.evaluate import run_evaluation
    from .settings import parse_settings

    given = parse_settings(settings or [], ("planner", "agent", "env"))
    planner = planner or planner_for(env, checkpoint, {**protocol_settings(protocol, "agent"), **given["agent"]})
    which = f"{protocol}-{split}-{offset}" if tasks is None else tasks.stem
    config = EvalConfig(
        env=env,
        planner=planner,
        checkpoint=checkpoint,
        protocol=protocol,
        split=split,
        offset=offset,
        tasks=tasks,
        episodes=episodes,
        seed=seed,
        batch_size=batch_size,
        device=device,
        budget_rollouts=budget_rollouts,
        budget_iterations=budget_iterations,
        budget_flops=budget_flops,
        budget_ms=budget_ms,
        output_dir=output_dir or Path("out") / f"{env}-{planner}-{which}",
        video=video,
        with_floors=with_floors,
        overwrite=overwrite,
        planner_settings=given["planner"],
        agent_settings=given["agent"],
        env_settings=given["env"],
    )
    done, solved = 0, 0
    with _bar(f"{env} {planner}", "episodes") as update:

        def show(episode: object, total: int) -> None:
            nonlocal done, solved
            done, solved = done + 1, solved + bool(getattr(episode, "success", False))
            update(done, total, f"{solved} solved")  # no share: what is solved is over first

        report = run_evaluation(config, show)
    task_set = report.task_set
    title = f"{env}, {task_set.protocol} {task_set.split} tasks, offset {task_set.offset_env_steps} env steps"
    console.print(table(report.summaries, f"{title}, budget {task_set.budget_env_steps}"))
    if report.num_resumed:
        console.print(f"{report.num_resumed} of {len(task_set.tasks)} episodes were there from an earlier run")
    videos = f" and {report.num_videos} videos" if video else ""
    console.print(f"wrote {config.output_dir / 'results.json'}{videos}")
    if report.num_videos < min(video, len(task_set.tasks)):
        console.print("episodes are filmed as they are played: --overwrite plays those again that were played before")


@app.command()
def bench(
    env: EnvOption = "pusht",
    planner: ModelPlannerOption = None,
    checkpoint: CheckpointOption = None,
    max_batch: Annotated[int, typer.Option(help="Batch sizes are the powers of two from 1 to this.")] = 256,
    decisions: Annotated[int, typer.Option(help="Decisions to time for each batch size.")] = 200,
    seconds: Annotated[float, typer.Option(help="Seconds after which fewer are enough, but at least 3.")] = 20.0,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    budget_rollouts: RolloutsOption = None,
    budget_iterations: IterationsOption = None,
    budget_flops: FlopsOption = None,
    budget_ms: MillisecondsOption = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where results go (default: out/ and the options).")] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw bench.png (needs matplotlib).")] = True,
    settings: SetOption = None,
) -> None:
    """Time a planner's decisions, on random pictures. [dim]--set planner.NAME=VALUE, --set agent.NAME=VALUE[/]"""
    from ..agent.config import planner_for
    from ..experiments.bench import run_bench, table
    from ..experiments.config import BenchConfig
    from .settings import parse_settings

    given = parse_settings(settings or [], ("planner", "agent"))
    planner = planner or planner_for(env, checkpoint, given["agent"])
    config = BenchConfig(
        env=env,
        planner=planner,
        checkpoint=checkpoint,
        max_batch=max_batch,
        decisions=decisions,
        seconds=seconds,
        seed=seed,
        device=device,
        budget_rollouts=budget_rollouts,
        budget_iterations=budget_iterations,
        budget_flops=budget_flops,
        budget_ms=budget_ms,
        output_dir=output_dir or Path("out") / f"bench-{env}-{planner}",
        plot=plot,
        planner_settings=given["planner"],
        agent_settings=given["agent"],
    )
    with _bar(f"{env} {planner}", "batch sizes") as update:
        report = run_bench(config, update)
    peak = report.peak_flops_per_second / 1e9
    console.print(table(report, f"{env} {planner}, random pictures; matrix products reach {peak:.0f} GFLOP/s"))
    console.print(f"wrote {config.output_dir / 'bench.json'}" + (" and bench.png" if plot else ""))


@app.command()
def tasks(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    env: EnvOption = "pusht",
    offset: Annotated[int, typer.Option(help="Environment steps from start to goal.")] = 25,
    episodes: Annotated[int, typer.Option(help="Number of tasks.")] = 200,
    seed: SeedOption = 0,
    protocol: Annotated[str, typer.Option(help="strict or lewm-paper.")] = "strict",
    split: Annotated[str, typer.Option(help="Name to file them under.")] = "custom",
) -> None:
    """Make evaluation tasks from held-out episodes: pairs of a start and a goal."""
    from ..eval import make_tasks

    with _bar("making tasks", "tasks") as update:
        make_tasks(env, offset, episodes, seed, protocol, split=split, progress=update).save(out)
    console.print(f"wrote {out}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="results.json")],
    second: Annotated[Path, typer.Argument(help="results.json on the same tasks")],
) -> None:
    """Compare two evaluations on the same tasks, task by task (exact McNemar test)."""
    from ..eval import compare as run

    result = run(first, second)
    table = Table(title=f"{result.n} tasks", box=None)
    for name, value in (
        (str(first), f"{100 * result.success_a:.1f} %"),
        (str(second), f"{100 * result.success_b:.1f} %"),
        ("solved by the first only", str(result.only_a)),
        ("solved by the second only", str(result.only_b)),
        ("p of equal rates", f"{result.p_value:.3g}"),
    ):
        table.add_row(name, value)
    console.print(table)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="results.json files, a row each.")],
    plot: Annotated[
        Path | None, typer.Option(help="Also draw success against compute into this PNG, PDF or SVG.")
    ] = None,
    bars: Annotated[Path | None, typer.Option(help="Also draw success rates beside each other into this one.")] = None,
    into: Annotated[
        Path | None, typer.Option(help="Markdown file to put the table in, instead of printing it.")
    ] = None,
    mark: Annotated[str, typer.Option(help="It goes between <!-- MARK --> and <!-- /MARK -->.")] = "results",
    compact: Annotated[
        bool, typer.Option("--compact", help="A row for each planner, a column for each set of tasks.")
    ] = False,
) -> None:
    """Several evaluations as one Markdown table, and as pictures."""
    from ..eval import compact_table, markdown_table, write_table
    from ..eval.plot import bar_plot, compute_plot

    make = compact_table if compact else markdown_table
    if into is None:
        typer.echo(make(results))
    else:
        write_table(results, into, mark, make)
        console.print(f"wrote {into}")
    if plot is not None:
        compute_plot(results, plot)
    if bars is not None:
        bar_plot(results, bars)


@app.command()
def doctor() -> None:
    """Say what works on this machine, and what to do about what does not. Ends with 1 if anything is wrong."""
    from .doctor import checks

    table = Table("", "found", "what to do", box=None)
    healthy = True
    with console.status("looking"):
        for check in checks():
            mark = ("ok", "green") if check.remedy is None else ("problem", "red")
            table.add_row(Text.assemble(mark, f" {check.name}"), check.found, check.remedy or "")
            healthy = healthy and check.remedy is None
    console.print(table)
    raise typer.Exit(0 if healthy else 1)


def _part_settings(
    groups: tuple[str, ...],
    checkpoint: str,
    data: list[Path],
    out: Path | None,
    steps: int | None,
    seed: int,
    device: str,
    settings: list[str] | None,
) -> dict[str, Any]:
    """What a configuration of training a part of a checkpoint is made of; what was not given keeps its default.

    Of the `groups` of settings, the first are the configuration's own; others are a setting each.
    """
    from .settings import parse_settings

    paths = {"checkpoint": checkpoint, "data": tuple(map(str, data)), "out": None if out is None else str(out)}
    chosen = {} if steps is None else {"steps": steps}
    given = parse_settings(settings or [], groups)
    own = given.pop(groups[0])
    return {**paths, "seed": seed, "device": device, **chosen, **given, **own}


def _show_metrics(metrics: Mapping[str, float]) -> None:
    table = Table(title="validation", box=None)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left; yields ``update(done, total, text="")``."""
    with _bars(unit) as update:
        update(title, 0, None)
        yield partial(update, title)


@contextmanager
def _bars(unit: str = "") -> Iterator[Callable[..., None]]:
    """A progress bar for each task as it comes; yields ``update(title, done, total, text="")``."""
    if not console.is_terminal:
        yield _lines(unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"), console=console
    ) as progress:
        bars: dict[str, TaskID] = {}

        def update(title: str, done: int, total: int | None, text: str = "") -> None:
            if title not in bars:
                bars[title] = progress.add_task(title, total=total, text="")
            progress.update(bars[title], completed=done, total=total, text=text)

        yield update


def _lines(unit: str, every_s: float = 30.0) -> Callable[..., None]:
    """What stands for progress bars in a log file: a line now and then, and one at the end of each task."""
    told: dict[str, float] = {}

    def update(title: str, done: int, total: int | None, text: str = "") -> None:
        now = time.monotonic()
        if done == total or now - told.setdefault(title, now) >= every_s:
            told[title] = now
            console.print(f"{title} {done}/{total} {unit} {text}".rstrip(), highlight=False, soft_wrap=True)

    return update
