"""Rows, pairs, tables, figures and the report of a comparison whose outcomes are made up."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from lwm_agent.eval import Episode, ModelAccount, summarize, wilson
from lwm_agent.eval.accounting import training_seconds
from lwm_agent.eval.canvas import Panel, compose
from lwm_agent.eval.comparison import (
    BELOW_ROLLOUT,
    CEILING,
    FAILED,
    FLOORS,
    POLICY,
    Cell,
    CellKey,
    Limit,
    ModelComparison,
)
from lwm_agent.eval.comparison_files import write_comparison
from lwm_agent.eval.comparison_table import headline_table, markdown, summary_sentence
from lwm_agent.eval.figures import spread
from lwm_agent.eval.provenance import machine
from lwm_agent.eval.video import write_episode

SMALL, LARGE = Limit("flops", 5e9), Limit("flops", 5e10)
NAME = "<b>evil</b> & co|"
ACCOUNT = ModelAccount(parameters=3_000_000, tokens=16, encode_flops=2e8, rollout_flops=7e9, training_seconds=7200.0)


def played(key: CellKey, solved: int, tasks: int = 20, flops: float = 4e9) -> Cell:
    """A cell whose first tasks are solved."""
    reactive = key.planner == POLICY
    episodes = [
        Episode(
            index=index,
            success=index < solved,
            solved_at_start=False,
            steps_to_success=20 if index < solved else None,
            final_errors={},
            min_errors={},
            num_decisions=1,
            plan_ms=(30.0,),
            rollouts=0 if reactive else 64,
            flops=flops,
            seconds=1.0,
        )
        for index in range(tasks)
    ]
    return Cell(
        key=key,
        summary=summarize(episodes),
        solved={episode.index: episode.success for episode in episodes},
        account=ACCOUNT,
        encode_ms=2.0,
        frames=3.0,
    )


def key(model: str, limit: Limit, planner: str = "cem", offset: int = 25, training_seed: int = 0) -> CellKey:
    return CellKey(env="pusht", offset=offset, model=model, planner=planner, limit=limit, training_seed=training_seed)


@pytest.fixture
def comparison() -> ModelComparison:
    cells = []
    for offset in (25, 50):
        cells += [
            played(key("lewm", SMALL, offset=offset), 17),
            played(key("lewm", LARGE, offset=offset, planner="gradient"), 16, flops=3e10),
            played(key("lewm", LARGE, offset=offset), 19, flops=4e10),
            Cell(key=key("dino", SMALL, offset=offset), status=BELOW_ROLLOUT, message="one takes 7", account=ACCOUNT),
            played(key("dino", LARGE, offset=offset), 18, flops=4.5e10),
            played(key(NAME, Limit(), POLICY, offset), 4, flops=1e6),
        ]
    floors = [
        played(CellKey(env="pusht", offset=offset, model=name, planner=name), solved, flops=0)
        for offset in (25, 50)
        for name, solved in zip((*FLOORS, CEILING), (1, 0, 20), strict=True)
    ]
    return ModelComparison(cells=tuple(cells), floors=tuple(floors), info=info())


def info() -> dict[str, Any]:
    tasks = {"pusht-25": {"budget_env_steps": 50}}
    settings = {"protocol": "strict", "split": "test", "seed": 0, "engine": "local", "batch_size": 50, "jobs": 2}
    return {"command": f"lwm-agent compare --model '{NAME}'", "tasks": tasks, **settings, **machine()}


def test_row_pools_its_seeds_and_shows_their_range() -> None:
    cells = tuple(played(key("lewm", SMALL, training_seed=seed), solved) for seed, solved in enumerate((17, 11)))
    (row,) = ModelComparison(cells=cells, floors=(), info={}).rows
    assert (row.n, row.success, row.ci95) == (40, 28 / 40, wilson(28, 40))
    assert row.seed_range == (11 / 20, 17 / 20)
    assert row.flops == 4e9 + 3 * 2e8  # three frames a decision
    assert row.ms == 30 + 3 * 2


def test_the_best_planner_of_each_model_is_compared(comparison: ModelComparison) -> None:
    best = comparison.best("pusht", 25, LARGE)
    assert [(row.key.model, row.key.planner) for row in best] == [("lewm", "cem"), ("dino", "cem"), (NAME, POLICY)]
    assert [row.key.model for row in comparison.best("pusht", 25, SMALL)] == ["lewm", NAME]
    assert comparison.limits == [SMALL, LARGE]


def test_pairs_are_corrected_together(comparison: ModelComparison) -> None:
    pairs = comparison.pairs()
    assert len(pairs) == 2 * (1 + 3)  # of two offsets: one within the small budget, three within the large one
    pair = next(pair for pair in pairs if (pair.first.key.model, pair.second.key.model) == ("lewm", NAME))
    assert (pair.test.only_a, pair.test.only_b) == (13, 0)
    assert pair.test.p_value < pair.corrected < 0.01
    assert "6 differences are significant in 8 paired tests" in summary_sentence(comparison)


def test_two_policies_are_compared_once_for_all_budgets() -> None:
    cells = [played(key(name, Limit(), POLICY), solved) for name, solved in (("a", 9), ("b", 3))]
    cells += [played(key("c", limit), 1) for limit in (SMALL, LARGE)]
    pairs = ModelComparison(cells=tuple(cells), floors=(), info={}).pairs()
    assert [(pair.first.key.model, pair.second.key.model) for pair in pairs if pair.limit is None] == [("a", "b")]
    assert len(pairs) == 1 + 2 * 2


def test_verdicts_are_honest(comparison: ModelComparison) -> None:
    verdicts = {(row[1], row[2]): row[3] for row in headline_table(comparison).rows}
    assert verdicts["25", "5 GFLOP"] == "lewm is ahead of all others"
    assert verdicts["25", "50 GFLOP"] == "lewm leads, not significantly ahead of dino"
    poor = ModelComparison(cells=(played(key("lewm", SMALL), 2),), floors=comparison.floors, info={})
    assert headline_table(poor).rows[0][3] == "none is measurably above the floors"


def test_markdown_says_which_cell_is_below_one_rollout_and_escapes_names(comparison: ModelComparison) -> None:
    text = markdown(comparison)
    assert "| dino | cem | 5 GFLOP | below one rollout |" in text
    assert "&lt;b&gt;evil&lt;/b&gt; &amp; co\\|" in text
    assert "<b>" not in text
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(widths)) <= 5  # as many as there are kinds of tables


class Loads(HTMLParser):
    """Collects what a page loads, its tags and what stands outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]


def test_files_are_complete_and_the_report_loads_nothing(comparison: ModelComparison, tmp_path: Path) -> None:
    folders = {cell.key: Path("cells") / str(number) for number, cell in enumerate(comparison.cells)}
    picture = np.full((256, 256, 3), 200, np.uint8)
    frame = compose([Panel(picture, "now"), Panel(picture, "goal")], "task 0", "someone", None)
    for number in (2, 5, 4):  # within the large budget, and the policy; at offset 50, nothing was filmed
        write_episode(tmp_path / "cells" / str(number) / "videos" / "task-000.mp4", [frame] * number)
    write_comparison(comparison, tmp_path, folders, num_videos=2)

    contents = json.loads((tmp_path / "results.json").read_text())
    assert contents["format"] == "lwm-agent comparison 1"
    assert len(contents["cells"]) == 12 + 6
    below = [cell for cell in contents["cells"] if cell["status"] == BELOW_ROLLOUT]
    assert [cell["model"] for cell in below] == ["dino", "dino"]
    assert {pair["second"] for pair in contents["pairs"]} == {"dino", NAME}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert len(rows) == 18
    assert rows[6]["ci95_low"] == str(wilson(17, 20)[0])

    for name in ("success-flops", "success-ms", "success-offset"):
        svg = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert {"lewm", "dino"} <= {
            "".join(text.itertext()) for text in ET.fromstring(svg).iter() if "text" in text.tag
        }
        assert iio.imread(tmp_path / "figures" / f"{name}.png").std() > 5
    film = iio.imread(tmp_path / "videos" / "pusht-25-000.mp4")
    assert film.shape[1:] == (496, 640, 3)  # four panels in two rows
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["pusht-25-000.mp4"]

    page = (tmp_path / "report.html").read_text()
    reader = Loads()
    reader.feed(page)
    assert [link[:22] for link in reader.loaded if not link.startswith("#")] == ["data:video/mp4;base64,"]
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert "<b>evil" not in page
    assert reader.tags.count("table") == reader.tags.count("caption") == 6
    assert page.count('role="img" aria-label="Success against') == 3
    for words in ("below one rollout", "lewm is ahead of all others", "95 % CI", "Holm", "prefers-color-scheme: dark"):
        assert words in page


def test_failed_cell_is_in_every_table(comparison: ModelComparison) -> None:
    failed = Cell(key=key("lewm", Limit("ms", 50)), status=FAILED, message="there is <no> memory", account=ACCOUNT)
    text = markdown(ModelComparison(cells=(*comparison.cells, failed), floors=comparison.floors, info=comparison.info))
    assert "| lewm | cem | 50 ms | failed |" in text
    assert "there is &lt;no&gt; memory" in text
    assert "| pusht | 25 | 50 ms | lewm" not in text


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([50.0, 20.0], [50.0, 20.0]),
        ([50.0, 50.0, 50.0], [60.0, 50.0, 40.0]),  # around their mean
        ([99.0, 98.0], [100.0, 90.0]),  # not above the top
        ([50.0, 59.0, 41.0, 0.0], [50.0, 60.0, 40.0, 0.0]),
    ],
)
def test_labels_do_not_overlap(heights: list[float], expected: list[float]) -> None:
    assert spread(heights, 10.0, 0.0, 100.0) == pytest.approx(expected)


def test_training_time_is_that_of_all_stages() -> None:
    assert training_seconds({"seconds": 5.0, "heads": {"seconds": 2}, "predictor": {"steps": 3}}) == 7.0
    earlier = {"seconds": 7.0, "before": {"seconds": 1.0, "predictor": {"seconds": 0.5}}}
    assert (
        training_seconds({"seconds": 5.0, "before": earlier, "heads": {"seconds": 2, "before": {"seconds": 3}}}) == 18.5
    )
    assert training_seconds({"steps": 3}) is None
