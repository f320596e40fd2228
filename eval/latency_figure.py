"""Picture of what `lwm-agent bench` measured: latency and throughput by batch size.

``python -m lwm_agent.eval.latency_figure FILES`` draws it again, beside each ``bench.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_text
from .figures import FAINT, INK, Label, color_of, label_ends, log_axis, new_figure, quiet_axes, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENTILES = {"p50_ms": "median", "p95_ms": "95th percentile", "p99_ms": "99th percentile"}


def latency_plot(path: str | Path, out: str | Path) -> None:
    """Draws a ``bench.json`` into `out`: milliseconds a decision on the left, plans a second on the right.

    Raises:
        ValueError: matplotlib is not installed.
    """
    timings = json.loads(read_text(path))["timings"]
    figure = new_figure(10, 3.6)
    latency, throughput = figure.subplots(1, 2)
    labels = [_draw_line(latency, timings, name, number) for number, name in enumerate(PERCENTILES)]
    log_axis(latency, "y")
    batches, rates = [row["batch"] for row in timings], [row["plans_per_second"] for row in timings]
    throughput.plot(batches, rates, "o-", color=color_of(0), ms=4.5)
    throughput.set_ylim(0, 1.1 * max(rates))
    for ax, title in ((latency, "milliseconds a decision for all episodes"), (throughput, "plans a second")):
        quiet_axes(ax)
        ax.set_xscale("log", base=2)
        ax.set_xticks(batches, [str(batch) for batch in batches])
        ax.set_xlabel("episodes at once", color=FAINT)
        ax.set_title(title, loc="left", fontsize=10, color=INK)
    figure.draw_without_rendering()  # labels are placed by the size of the axes
    label_ends(latency, [label for label in labels if label is not None])
    save_figure(figure, out)


def _draw_line(ax: Axes, timings: list[dict[str, Any]], name: str, number: int) -> Label | None:
    """One percentile over the batch sizes for which it is known, and its label."""
    timed = [(row["batch"], row[name]) for row in timings if row[name] is not None]
    if not timed:
        return None
    ax.plot(*zip(*timed, strict=True), "o-", color=color_of(number), ms=4.5)
    return Label(*timed[-1], PERCENTILES[name], color_of(number))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        latency_plot(name, Path(name).with_suffix(".png"))
