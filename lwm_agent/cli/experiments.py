"""Commands that show and measure: demo, record, play, eval, recommend, bench, compare, report."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.table import Table

from ..experiments.comparison_config import CompareConfig
from ..experiments.config import BenchConfig, EvalConfig, RecommendConfig, ReportConfig
from ..experiments.film_config import DemoConfig, RecordConfig
from ..play.config import PlayConfig
from .options import command
from .progress import bar, console, counted, show_table, show_text_table


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "demo", DemoConfig)(demo)
    command(app, "record", RecordConfig)(record)
    command(app, "play", PlayConfig)(play)
    command(app, "eval", EvalConfig, "the same command goes on after the last episode that was played")(evaluate)
    command(app, "recommend", RecommendConfig, "the same command goes on after the last episode that was played")(
        recommend
    )
    command(app, "bench", BenchConfig, "nothing was written; run it again")(bench)
    command(app, "compare", CompareConfig, "the same command goes on with the cells and episodes that are left")(
        compare
    )
    command(app, "report", ReportConfig)(report)


def demo(config: DemoConfig) -> None:
    """Play one of the package's tasks and film it."""
    from ..experiments.record import run_demo

    outcome = run_demo(config)
    (episode,), task_set = outcome.episodes, outcome.task_set
    steps = f"{episode.steps_to_success if episode.success else task_set.budget_env_steps} steps"
    verdict = f"reached the goal after {steps}" if episode.success else f"did not reach the goal in {steps}"
    console.print(f"task {episode.index} of {len(task_set.tasks)}: {config.planner} {verdict}")
    console.print(f"wrote {outcome.files[0][0]}")
    console.print(
        f"all {len(task_set.tasks)} tasks: lwm-agent eval --env {config.env} --planner {config.planner}"
        f"{config.choice_of_tasks}"
    )


def record(config: RecordConfig) -> None:
    """Play tasks and film them, as mp4 and GIF: what the agent sees, imagines and tries."""
    from ..eval import Episode
    from ..experiments.record import run_record

    done, solved = 0, 0
    with bar(f"{config.env} {config.planner}", "films") as update:

        def show(episode: Episode) -> None:
            nonlocal done, solved
            done, solved = done + 1, solved + episode.success
            update(done, config.episodes, f"{solved} solved")

        films = run_record(config, show)
    written = counted(sum(map(len, films.files)), "film")
    console.print(f"{solved} of {counted(done, 'task')} solved; wrote {written} into {config.out}")


def play(config: PlayConfig) -> None:
    """Open a window: drag and turn the goal, push things away, and watch the agent pursue it in real time."""
    from ..play.window import run_play

    steps = run_play(config)
    console.print(f"the last task ran for {counted(steps, 'environment step')}")
    if config.screenshot is not None:
        console.print(f"wrote {config.screenshot}")


def evaluate(config: EvalConfig) -> None:
    """Evaluate a planner on frozen tasks, beside the floors. Interrupted? The same command resumes."""
    from ..eval import Episode, table
    from ..experiments.evaluate import run_evaluation

    done, solved = 0, 0
    with bar(f"{config.env} {config.planner}", "episodes") as update:

        def show(episode: Episode, total: int) -> None:
            nonlocal done, solved
            done, solved = done + 1, solved + episode.success
            update(done, total, f"{solved} solved")  # no share: what is solved is over first

        report = run_evaluation(config, show)
    task_set = report.task_set
    title = f"{config.env}, {task_set.protocol} {task_set.split} tasks, offset {task_set.offset_env_steps} env steps"
    shifts = f", with {' '.join(config.shift)}" if config.shift else ""
    show_table(table(report.summaries, f"{title}, budget {task_set.budget_env_steps}{shifts}"))
    if report.num_resumed:
        console.print(f"{report.num_resumed} of {len(task_set.tasks)} episodes were there from an earlier run")
    videos = f" and {counted(report.num_videos, 'video')}" if config.video else ""
    console.print(f"wrote {config.output_dir / 'results.json'}{videos}")
    if report.num_videos < min(config.video, len(task_set.tasks)):
        console.print("episodes are filmed as they are played: --overwrite plays those again that were played before")


def recommend(config: RecommendConfig) -> None:
    """Store in a checkpoint how agents plan by default: the cost, of several the best on validation tasks."""
    from ..eval import Episode, table
    from ..experiments.recommend import recommend as run

    done = 0
    with bar("recommend", "episodes") as update:

        def show(cost: str, episode: Episode, total: int) -> None:
            nonlocal done
            done += 1
            update(done, total * len(config.cost), cost)

        chosen = run(config, show)
    if chosen.tried:
        show_table(table(chosen.tried, f"{config.env} {config.planner}, {config.split} tasks, offset {config.offset}"))
    steps = chosen.replan_every_env_steps
    often = "" if steps is None else f", and plan every {counted(steps, 'environment step')},"
    console.print(f"agents now minimise {chosen.cost}{often} with {chosen.folder}")


def bench(config: BenchConfig) -> None:
    """Time a planner's decisions, on random pictures."""
    from ..experiments.bench import run_bench, table

    with bar(f"{config.env} {config.planner}", "batch sizes") as update:
        report = run_bench(config, update)
    peak = report.peak_flops_per_second / 1e9
    title = f"{config.env} {config.planner}, random pictures; matrix products reach {peak:.0f} GFLOP/s"
    show_table(table(report, title))
    console.print(f"wrote {config.output_dir / 'bench.json'}" + (", bench.png and bench.svg" if config.plot else ""))


def compare(config: CompareConfig) -> None:
    """Compare models under the same compute; or two evaluations, task by task (exact McNemar test)."""
    if config.results:
        _compare_results(*config.results)
    else:
        _compare_models(config)


def _compare_results(first: Path, second: Path) -> None:
    from ..eval import compare as run

    result = run(first, second)
    table = Table(title=counted(result.n, "task"), box=None)
    for name, value in (
        (str(first), f"{100 * result.success_a:.1f} %"),
        (str(second), f"{100 * result.success_b:.1f} %"),
        ("solved by the first only", str(result.only_a)),
        ("solved by the second only", str(result.only_b)),
        ("p of equal rates", f"{result.p_value:.3g}"),
    ):
        table.add_row(name, value)
    show_table(table)


def _compare_models(config: CompareConfig) -> None:
    from ..eval.comparison_table import headline_table, summary_sentence
    from ..experiments.comparison import failures, run_comparison

    if config.budget_ms and config.jobs is None:
        console.print("budgets in milliseconds: one cell at a time, so that none takes time from another (--jobs)")
    with bar("compare", "cells") as update:
        comparison = run_comparison(config, update)
    show_text_table(headline_table(comparison))
    console.print(summary_sentence(comparison))
    console.print(
        f"wrote {config.out / 'report.html'}, results.json, results.csv, comparison.md and figures/ beside it"
    )
    failed = failures(comparison)
    for cell in failed:
        key = cell.key
        console.print(f"failed: {key.env} {key.offset} {key.model} {key.planner} {key.limit}: {cell.message}")
    if failed:
        console.print(f"{counted(len(failed), 'cell')} failed: the same command tries again")
        raise typer.Exit(1)


def report(config: ReportConfig) -> None:
    """Show several evaluations as one Markdown table, and as pictures."""
    from ..eval import compact_table, markdown_table, write_table
    from ..eval.plot import bar_plot, compute_plot

    make = compact_table if config.compact else markdown_table
    if config.into is None:
        typer.echo(make(config.results))
    else:
        write_table(config.results, config.into, config.mark, make)
        console.print(f"wrote {config.into}")
    if config.plot is not None:
        compute_plot(config.results, config.plot)
    if config.bars is not None:
        bar_plot(config.results, config.bars)
