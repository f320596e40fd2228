"""Errors and success in rare states, of checkpoints that were trained alike but for one setting: see --help.

Does the Gaussian prior of a LeWorldModel (SIGReg) smooth over states that are rare and important? Each held-out frame
has a rarity: the distance of its physical state to the tenth nearest of the frames that the probes were fitted on. By
deciles of it, and for named kinds of states, this measures how well probes read the state from the latent, now and
after five imagined blocks, and, with results of evaluations, how many tasks with so rare a start or goal were solved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lwm_agent.checkpoint import Checkpoint, checksum
from lwm_agent.compute.device import resolve_device
from lwm_agent.envs import name_of
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.envs.quantities import Quantity
from lwm_agent.eval import make_env, shipped_tasks, wilson
from lwm_agent.eval.bootstrap import Bootstrap
from lwm_agent.eval.figures import FAINT, INK, Label, color_of, label_ends, new_figure, quiet_axes, save_figure
from lwm_agent.eval.probes import PROBES
from lwm_agent.eval.provenance import command_line, machine
from lwm_agent.eval.results_file import parse_results
from lwm_agent.experiments.probe_config import ProbeConfig
from lwm_agent.experiments.probe_sample import Sample, Sampler
from lwm_agent.files import write_text
from lwm_agent.training.frozen_encoder import open_fitting
from lwm_agent.training.held_out import follow_splits

Array = NDArray[np.float64]

NEIGHBOUR, BINS, HORIZON = 10, 10, 5
STATE = {"pusht": ("agent", "block", "angle"), "cube": ("cube", "effector", "gripper")}
READ = {"pusht": ("block", "angle"), "cube": ("cube",)}
"""Quantities of which a state is made, and those that are read, by environment."""

WALL_PX, TABLE_PX = 110.0, 512.0
KINDS: dict[str, dict[str, Callable[[Mapping[str, Quantity]], NDArray[np.bool_]]]] = {
    "pusht": {
        "block at a wall": lambda q: _from_wall(q["block"].values).min(axis=1) < WALL_PX,
        "block in a corner": lambda q: _from_wall(q["block"].values).max(axis=1) < WALL_PX,
        "upside down": lambda q: np.abs((q["angle"].values[:, 0] % 360) - 180) < 45,
        "agent in the notch": lambda q: _in_notch(q["agent"].values, q["block"].values, q["angle"].values[:, 0]),
    },
    "cube": {
        "cube in the air": lambda q: q["cube"].values[:, 2] > 5,
        "cube at the edge": lambda q: np.abs(q["cube"].values[:, 1]) > 22,
    },
}


def _from_wall(places: Array) -> Array:
    """Distances ``(N, 2)`` to the nearer wall, px."""
    return np.minimum(places, TABLE_PX - places)


def _in_notch(agent: Array, block: Array, angle_deg: Array) -> NDArray[np.bool_]:
    """True where the agent is beside the stem, under the bar."""
    turn = np.radians(angle_deg)
    x, y = (agent - block).T
    right, down = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
    return (np.abs(right) > 15) & (np.abs(right) < 60) & (down > 30) & (down < 75)


def rarity_of(states: Array, others: Array) -> Array:
    """Distance of each of `states` to the tenth nearest of `others`, in standard deviations of those, ``(N,)``."""
    mean, std = others.mean(axis=0), others.std(axis=0) + 1e-9
    near = torch.from_numpy((others - mean) / std).float()
    far = torch.from_numpy((states - mean) / std).float().split(512)
    return np.concatenate([torch.cdist(part, near).kthvalue(NEIGHBOUR, dim=1).values.numpy() for part in far])


def features(quantities: Mapping[str, Quantity], env: str) -> Array:
    """Numbers of the physical states, ``(N, k)``."""
    return np.concatenate([quantities[name].targets for name in STATE[env]], axis=1)


def measure(name: str, results: Path | None, data: tuple[str, ...], frames: int, seed: int) -> dict[str, Any]:
    """Errors of one checkpoint, and its success, by rarity."""
    config = ProbeConfig(checkpoint=name, data=data, frames=frames, horizon=HORIZON, seed=seed, plot=False)
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(name, device)
    env = name_of(checkpoint.env)
    files = open_fitting(checkpoint, config.data)
    records = follow_splits(checkpoint.training, files, config)
    training, validation = zip(*(record.split(file) for record, file in zip(records, files, strict=True)), strict=True)
    sampler = Sampler(config, checkpoint, files, device, lambda *_: None)
    held_out, fitted = sampler.sample(validation, ahead=True), sampler.sample(training, ahead=False)
    known = features(fitted.quantities, env)
    rarity = rarity_of(features(held_out.quantities, env), known)
    measured: dict[str, Any] = {
        "checkpoint": name,
        "sha256": checksum(name),
        "sigreg_weight": checkpoint.model_config.get("sigreg_weight"),
        "frames": len(rarity),
        "quantities": {quantity: _read(fitted, held_out, quantity, rarity, env, seed) for quantity in READ[env]},
    }
    if results is not None:
        measured["evaluation"] = _evaluation(results)
        measured["tasks"] = _success(results, env, known)
    return measured


def _read(fitted: Sample, held_out: Sample, name: str, rarity: Array, env: str, seed: int) -> dict[str, Any]:
    """Median errors of reading a quantity from frames, and from latents imagined five blocks before."""
    probe = PROBES["mlp"](*fitted.examples(name), seed)
    quantity, imagined = held_out.quantities[name], held_out.clips.imagined
    assert imagined is not None
    last = np.arange(len(imagined)) * held_out.clips.seen.shape[1] + HORIZON
    errors = {
        "now": (quantity.errors(quantity.read(probe(held_out.frames))), rarity, held_out.episodes, slice(None)),
        "imagined": (
            quantity.rows(last).errors(quantity.read(probe(imagined[:, -1]))),
            rarity[last],
            held_out.clip_episodes,
            last,
        ),
    }
    edges = np.quantile(rarity, np.linspace(0, 1, BINS + 1)[1:-1])
    table: dict[str, Any] = {"unit": quantity.unit}
    for when, (error, rare, episodes, rows) in errors.items():
        parts = {f"decile {k + 1}": np.digitize(rare, edges) == k for k in range(BINS)}
        parts |= {kind: holds(held_out.quantities)[rows] for kind, holds in KINDS[env].items()}
        table[when] = {part: _median(error[inside], episodes[inside], seed) for part, inside in parts.items()}
    return table


def _median(errors: Array, episodes: NDArray[np.int64], seed: int) -> dict[str, float] | None:
    """Median with its interval over episodes; None of fewer than two."""
    if len(np.unique(episodes)) < 2:
        return None
    median = Bootstrap(episodes, seed).quantile(errors, 0.5)
    return {"n": len(errors), "median": median.value, "low": median.low, "high": median.high}


def _evaluation(results: Path) -> dict[str, Any]:
    """Success on all tasks, and of random actions and of doing nothing."""
    parsed = parse_results(results)
    floors = {name: floor.success for name, floor in parsed.floors.items()}
    return {"n": parsed.summary.n, "success": parsed.summary.success, "ci95": parsed.summary.ci95, "floors": floors}


def _success(results: Path, env: str, known: Array) -> list[dict[str, float]]:
    """Success by thirds of the rarity of the rarer of start and goal."""
    parsed = parse_results(results)
    tasks = parsed.run["tasks"]
    task_set = shipped_tasks(env, tasks["protocol"], tasks["split"], tasks["offset_env_steps"])
    states = np.array([[task.state, task.goal_state] for task in task_set.tasks])[sorted(parsed.solved)]
    with make_env(task_set) as simulator:
        quantities = cast(GoalImageEnv, simulator.unwrapped).quantities(states.reshape(-1, states.shape[-1]))
    rarity = rarity_of(features(quantities, env), known).reshape(-1, 2).max(axis=1)
    solved = np.array([parsed.solved[index] for index in sorted(parsed.solved)])
    thirds = []
    for part in np.array_split(np.argsort(rarity), 3):
        low, high = wilson(int(solved[part].sum()), len(part))
        thirds.append({"n": len(part), "success": float(solved[part].mean()), "low": low, "high": high})
    return thirds


def draw(measured: list[dict[str, Any]], path: Path) -> None:
    """Draws errors and success against rarity, a line for each checkpoint."""
    names = list(measured[0]["quantities"])
    with_tasks = all("tasks" in one for one in measured)
    figure = new_figure(3.4 * (2 + with_tasks), 2.7 * len(names))
    axes = figure.subplots(len(names), 2 + with_tasks, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        for ax, when in zip(row, ("now", "imagined"), strict=False):
            for number, one in enumerate(measured):
                _draw_errors(ax, one["quantities"][name], when, color_of(number))
            ahead = "now" if when == "now" else f"imagined {HORIZON} blocks ahead"
            ax.set_title(f"{name}, {ahead}", fontsize=9, color=INK, loc="left")
            ax.set_ylim(bottom=0)
    if with_tasks:
        for ax in axes[1:, -1]:
            ax.set_visible(False)
        for number, one in enumerate(measured):
            beside = 0.06 * (number - (len(measured) - 1) / 2)  # so that intervals can be told apart
            _draw_success(axes[0, -1], one["tasks"], beside, color_of(number))
    for ax in axes.flat:
        quiet_axes(ax)
        ax.tick_params(labelsize=8)
    ends = [one["quantities"][names[0]]["now"][f"decile {BINS}"] for one in measured]
    labels = [
        Label(BINS, end["median"], f"SIGReg {one['sigreg_weight']:g}", color_of(number))
        for number, (one, end) in enumerate(zip(measured, ends, strict=True))
        if end is not None
    ]
    label_ends(axes[0, 0], labels, size=7)
    save_figure(figure, path)


def _draw_errors(ax: Axes, quantity: Mapping[str, Any], when: str, color: str) -> None:
    found = [quantity[when][f"decile {k + 1}"] for k in range(BINS)]
    places = [k + 1 for k, row in enumerate(found) if row is not None]
    rows = [row for row in found if row is not None]
    ax.plot(places, [row["median"] for row in rows], color=color, linewidth=1.5)
    ax.fill_between(
        places, *([row[side] for row in rows] for side in ("low", "high")), color=color, alpha=0.2, linewidth=0
    )
    ax.set_ylabel(f"median error, {quantity['unit']}", fontsize=8, color=FAINT)
    ax.set_xlabel("rarity of the state, decile", fontsize=8, color=FAINT)


def _draw_success(ax: Axes, thirds: list[dict[str, float]], beside: float, color: str) -> None:
    rates, low, high = (np.array([100 * third[name] for third in thirds]) for name in ("success", "low", "high"))
    places = np.arange(len(thirds))
    bounds = (rates - low, high - rates)
    ax.errorbar(places + beside, rates, bounds, fmt="o-", color=color, markersize=4, linewidth=1.2)
    ax.set_xticks(places, ["usual", "between", "rare"])
    ax.set_title("tasks solved, by thirds", fontsize=9, color=INK, loc="left")
    ax.set_ylabel("success, %", fontsize=8, color=FAINT)
    ax.set_ylim(0, 103)


def show(measured: list[dict[str, Any]], console: Console) -> None:
    """Prints the errors in named kinds of states, beside those in all deciles."""
    for name in measured[0]["quantities"]:
        for when in ("now", "imagined"):
            columns = [f"{one['checkpoint']}, SIGReg {one['sigreg_weight']}" for one in measured]
            table = Table("states", *columns, title=f"{name}, {when}: median error", box=SIMPLE_HEAD)
            for kind in measured[0]["quantities"][name][when]:
                rows = [one["quantities"][name][when][kind] for one in measured]
                table.add_row(kind, *("-" if row is None else f"{row['median']:.1f} (n {row['n']})" for row in rows))
            console.print(table)


def main(
    checkpoint: Annotated[list[str], typer.Option(help="Folder or name; repeat it.")],
    data: Annotated[list[str], typer.Option(help="File of trajectories; repeat it.")],
    results: Annotated[
        list[Path] | None, typer.Option(help="results.json of an evaluation of each checkpoint, in their order.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames that the probes are fitted on.")] = 30_000,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    out: Annotated[Path, typer.Option(help="JSON file to write, with a figure beside it.")] = Path(
        "out/rare-states.json"
    ),
) -> None:
    """Measure errors and success in rare states."""
    console = Console()
    if results and len(results) != len(checkpoint):
        raise typer.BadParameter(f"{len(results)} results for {len(checkpoint)} checkpoints: name one of each")
    measured = [
        measure(name, file, tuple(data), frames, seed)
        for name, file in zip(checkpoint, results or [None] * len(checkpoint), strict=True)
    ]
    report = {"command": command_line(), "checkpoints": measured, "frames": frames, "seed": seed, **machine()}
    write_text(out, json.dumps(report, indent=1, allow_nan=False) + "\n")
    draw(measured, out.with_suffix(".png"))
    show(measured, console)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
