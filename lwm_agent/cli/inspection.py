"""Commands that look inside a checkpoint: probe, surprise, robustness, diagnose, explain."""

from __future__ import annotations

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..experiments.diagnosis.config import DiagnoseConfig
from ..experiments.explain_config import ExplainConfig
from ..experiments.probe_config import ProbeConfig
from ..experiments.robustness_config import RobustnessConfig
from ..experiments.surprise_config import SurpriseConfig
from .options import command
from .progress import bar, bars, console, show_table, show_text_table


def add_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    resume = "nothing was written; run it again"
    command(app, "probe", ProbeConfig, resume)(probe)
    command(app, "surprise", SurpriseConfig, resume)(surprise)
    command(app, "robustness", RobustnessConfig, "the same command goes on after the last episode that was played")(
        robustness
    )
    command(app, "diagnose", DiagnoseConfig, resume)(diagnose)
    command(app, "explain", ExplainConfig, resume)(explain)


def probe(config: ProbeConfig) -> None:
    """Read physical quantities from a model's latents: of frames, of imagined futures, of painted pictures."""
    from ..eval.probe_table import tables
    from ..experiments.probe import run_probe

    with bars() as update:
        report = run_probe(config, update)
    for table in tables(report):
        show_text_table(table)
    straight = report.straightness
    console.print(
        f"effective rank {report.effective_rank:.1f} of {report.latent_size}; cosine of successive changes "
        f"{straight.value:.2f} [{straight.low:.2f}, {straight.high:.2f}]",
        highlight=False,
    )
    for name, reason in report.left_out.items():
        console.print(f"left out: {name}, which {reason}")
    console.print(f"wrote {config.out / 'results.json'}, table.md{' and figures' if config.plot else ''}")


def surprise(config: SurpriseConfig) -> None:
    """Measure by which impossible events a world model is surprised."""
    from ..eval.surprise import surprise_table
    from ..experiments.surprise import run_surprise

    with bar("surprise", "events") as update:
        surprises = run_surprise(config, update)
    show_text_table(surprise_table(surprises.outcomes, f"{config.checkpoint}, {config.data.name}"))
    for name, reason in surprises.left_out.items():
        console.print(f"left out: {name}: {reason}")
    console.print(f"detected: surprise above {surprises.threshold:.3g}, as one in a hundred steps without an event has")
    console.print(f"wrote {config.out / 'results.json'}, surprise.png, surprise.svg and events.png")


def robustness(config: RobustnessConfig) -> None:
    """Measure how much of its success an agent keeps where something differs from its training."""
    from ..eval.robustness import robustness_table
    from ..experiments.robustness import run_robustness

    with bar(f"{config.env} {config.planner}", "evaluations") as update:
        measured = run_robustness(config, update)
    show_text_table(robustness_table(measured))
    seen = " and shifts.png" if (config.output_dir / "shifts.png").exists() else ""
    console.print(f"wrote {config.output_dir / 'results.json'}, and table.md, robustness.png{seen} beside it")


def diagnose(config: DiagnoseConfig) -> None:
    """Find out why an agent fails: by its data, its latents, its predictor, its cost or its search."""
    from ..experiments.diagnosis.run import diagnose as run

    with bars() as update:
        diagnosis = run(config, update)
    table = Table("part", "", "what was found", "what to do", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for finding in diagnosis.findings:
        table.add_row(finding.part, finding.grade, finding.text, finding.advice)
    show_table(table)
    if diagnosis.trials is None:
        console.print(f"no trials: {diagnosis.no_trials}")
    console.print(diagnosis.verdict)
    console.print(f"wrote {config.out / 'diagnosis.json'}, diagnosis.png and diagnosis.svg beside it")


def explain(config: ExplainConfig) -> None:
    """Find out why the failed tasks of an evaluation failed: model, search, cost or time."""
    from ..eval.explanation import cause_table
    from ..experiments.explain import explain as run

    with bars() as update:
        explanation = run(config, update)
    show_text_table(cause_table(explanation))
    console.print(explanation.summary)
    console.print(f"wrote {config.out / 'explanation.html'}, explanation.json, explanation.png and explanation.svg")
