"""Files of a comparison: results.json, results.csv, comparison.md, figures and report.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import write_text
from .comparison import Cell, CellKey, ModelComparison, Pair
from .comparison_figures import draw_figures
from .comparison_report import report_page
from .comparison_table import markdown
from .side_by_side import write_videos

FORMAT = "lwm-agent comparison 1"


def write_comparison(
    comparison: ModelComparison, out: Path, folders: Mapping[CellKey, Path], num_videos: int = 0
) -> None:
    """Writes every file of a comparison into `out`.

    Args:
        comparison: the comparison.
        out: the folder.
        folders: folder of each cell below `out`, where its videos lie.
        num_videos: tasks to show side by side, from the first.
    """
    cells = [_entry(cell, folders.get(cell.key)) for cell in (*comparison.floors, *comparison.cells)]
    pairs = [_pair(pair) for pair in comparison.pairs()]
    head = json.dumps({"format": FORMAT, "info": comparison.info}, indent=1, allow_nan=False).removesuffix("\n}")
    write_text(out / "results.json", f'{head},\n "cells": {_lines(cells)},\n "pairs": {_lines(pairs)}\n}}\n')
    write_text(out / "results.csv", _csv(cells))
    write_text(out / "comparison.md", markdown(comparison))
    figures = draw_figures(comparison, out / "figures")
    videos = write_videos(
        comparison, {key: out / folder for key, folder in folders.items()}, out / "videos", num_videos
    )
    write_text(out / "report.html", report_page(comparison, figures, videos))


def _lines(rows: list[dict[str, Any]]) -> str:
    """A JSON list with one short line a row."""
    return "[\n" + ",\n".join("  " + json.dumps(row, allow_nan=False) for row in rows) + "\n ]" if rows else "[]"


def _entry(cell: Cell, folder: Path | None) -> dict[str, Any]:
    key, summary, account = cell.key, cell.summary, cell.account
    costs = {} if account is None else asdict(account)
    return {
        "env": key.env,
        "offset": key.offset,
        "model": key.model,
        "training_seed": key.training_seed,
        "planner": key.planner,
        "unit": key.limit.unit,
        "limit": key.limit.value,
        "status": cell.status,
        "message": cell.message,
        "n": None if summary is None else summary.n,
        "success": None if summary is None else summary.success,
        "ci95": None if summary is None else list(summary.ci95),
        "rollouts": None if summary is None else summary.rollouts,
        "plan_flops": None if summary is None else summary.flops,
        "encode_flops": cell.encode_flops,
        "plan_ms_p50": None if summary is None else summary.plan_ms_p50,
        "plan_ms_p95": None if summary is None else summary.plan_ms_p95,
        "encode_ms": cell.encode_ms,
        "frames": cell.frames,
        "steps_to_success": None if summary is None else summary.steps_to_success,
        "parameters": costs.get("parameters"),
        "tokens": costs.get("tokens"),
        "frame_flops": costs.get("encode_flops"),
        "rollout_flops": costs.get("rollout_flops"),
        "training_seconds": costs.get("training_seconds"),
        "costs_tried": costs.get("costs_tried"),
        "checkpoint": cell.checkpoint,
        "folder": None if folder is None else folder.as_posix(),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    first, second = pair.first.key, pair.second.key
    return {
        "env": first.env,
        "offset": first.offset,
        "limit": None if pair.limit is None else str(pair.limit),
        "first": first.model,
        "first_planner": first.planner,
        "second": second.model,
        "second_planner": second.planner,
        "only_first": pair.test.only_a,
        "only_second": pair.test.only_b,
        "p": pair.test.p_value,
        "p_holm": pair.corrected,
    }


def _csv(cells: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    rows = []
    for cell in cells:
        low, high = cell["ci95"] or (None, None)
        rows.append(
            {name: value for name, value in cell.items() if name != "ci95"} | {"ci95_low": low, "ci95_high": high}
        )
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
