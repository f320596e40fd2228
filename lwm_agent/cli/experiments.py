"""Commands that measure: eval, bench, compare, report."""

from __future__ import annotations

import typer
from rich.table import Table

from ..experiments.config import BenchConfig, CompareConfig, EvalConfig, ReportConfig
from .options import command
from .progress import bar, console, counted, show_table


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "eval", EvalConfig, "the same command goes on after the last episode that was played")(evaluate)
    command(app, "bench", BenchConfig, "nothing was written; run it again")(bench)
    command(app, "compare", CompareConfig)(compare)
    command(app, "report", ReportConfig)(report)


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
    show_table(table(report.summaries, f"{title}, budget {task_set.budget_env_steps}"))
    if report.num_resumed:
        console.print(f"{report.num_resumed} of {len(task_set.tasks)} episodes were there from an earlier run")
    videos = f" and {counted(report.num_videos, 'video')}" if config.video else ""
    console.print(f"wrote {config.output_dir / 'results.json'}{videos}")
    if report.num_videos < min(config.video, len(task_set.tasks)):
        console.print("episodes are filmed as they are played: --overwrite plays those again that were played before")


def bench(config: BenchConfig) -> None:
    """Time a planner's decisions, on random pictures."""
    from ..experiments.bench import run_bench, table

    with bar(f"{config.env} {config.planner}", "batch sizes") as update:
        report = run_bench(config, update)
    peak = report.peak_flops_per_second / 1e9
    title = f"{config.env} {config.planner}, random pictures; matrix products reach {peak:.0f} GFLOP/s"
    show_table(table(report, title))
    console.print(f"wrote {config.output_dir / 'bench.json'}" + (" and bench.png" if config.plot else ""))


def compare(config: CompareConfig) -> None:
    """Compare two evaluations on the same tasks, task by task (exact McNemar test)."""
    from ..eval import compare as run

    result = run(config.first, config.second)
    table = Table(title=counted(result.n, "task"), box=None)
    for name, value in (
        (str(config.first), f"{100 * result.success_a:.1f} %"),
        (str(config.second), f"{100 * result.success_b:.1f} %"),
        ("solved by the first only", str(result.only_a)),
        ("solved by the second only", str(result.only_b)),
        ("p of equal rates", f"{result.p_value:.3g}"),
    ):
        table.add_row(name, value)
    show_table(table)


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
