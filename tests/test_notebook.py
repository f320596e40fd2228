"""The notebook of the documents: it runs from top to bottom, and is stored without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = json.loads((Path(__file__).parent.parent / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    pictures = []
    for cell in CODE:
        *_, last = cell.splitlines()
        exec(cell, scope)
        if last.startswith("beside("):  # a notebook shows the value of the last line
            pictures.append(eval(last, scope))
    printed = capsys.readouterr().out
    assert "reached the goal: True" in printed
    solved = {name: int(count) for name, count in re.findall(r"^(.+): (\d+) of 10 solved$", printed, re.MULTILINE)}
    assert solved.keys() == {"guided", "random", "do nothing"}
    assert solved["guided"] > max(solved["random"], solved["do nothing"])
    assert int(re.findall(r"(\d+) rollouts, ", printed)[0]) <= 300
    assert [picture.size for picture in pictures] == [(512, 256), (512, 256), (768, 256)]
    start, end, _ = (np.asarray(picture.resize((128, 64), Image.Resampling.NEAREST), float) for picture in pictures)
    assert abs(end[:, :64] - end[:, 64:]).mean() < abs(start[:, :64] - start[:, 64:]).mean()  # nearer to the goal
    assert scope["imagined"].std() > 5


def test_notebook_is_stored_as_notebooks_are() -> None:
    assert NOTEBOOK["nbformat"] == 4
    assert 10 <= len(NOTEBOOK["cells"]) <= 15
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
