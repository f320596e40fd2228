"""Files of figures: an SVG beside each PNG, small, and the same for the same figure; labels where there is room."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lwm_agent.eval.figures import PALETTE, new_figure, save_figure
from lwm_agent.eval.panel import Panel, Point, Series, draw_grid

DOCS = Path(__file__).parent.parent / "docs"


def example(frames: bool = False) -> object:
    figure = new_figure(3, 2)
    ax = figure.subplots()
    ax.plot(np.linspace(0, 1, 7), np.linspace(0, 1, 7) ** 3, color=PALETTE[0])
    ax.set_title("words & 0.12345")
    if frames:
        ax.imshow(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), extent=(0, 1, 0, 1))
    return figure


def test_a_png_has_an_svg_beside_it_and_both_are_the_same_again(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        save_figure(example(), tmp_path / folder / "plot.png")  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["plot.png", "plot.svg"]
    for name in ("plot.png", "plot.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    svg = (tmp_path / "one" / "plot.svg").read_text()
    assert "words & 0.12345" in ["".join(text.itertext()) for text in ET.fromstring(svg).iter() if "text" in text.tag]
    assert not re.search(r' (?:d|x|y)="[^"]*\.\d{3}', svg)
    assert "<dc:date>" not in svg


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_another_format_is_alone(tmp_path: Path, suffix: str) -> None:
    save_figure(example(), tmp_path / f"plot.{suffix}")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == [f"plot.{suffix}"]


def test_drawings_have_a_palette_and_frames_keep_their_colours(tmp_path: Path) -> None:
    for name, frames in (("drawing", False), ("frames", True)):
        save_figure(example(frames), tmp_path / f"{name}.png")  # type: ignore[arg-type]
    drawing, frame = (Image.open(tmp_path / f"{name}.png") for name in ("drawing", "frames"))
    assert (drawing.mode, frame.mode) == ("P", "RGB")
    assert len(set(frame.get_flattened_data() if hasattr(frame, "get_flattened_data") else frame.getdata())) > 500
    blue = np.array([int(PALETTE[0][at : at + 2], 16) for at in (1, 3, 5)])
    assert abs(np.asarray(drawing.convert("RGB"), int) - blue).max(axis=2).min() < 8


def test_a_name_stands_beside_a_lone_point_and_else_at_the_right() -> None:
    series = [
        Series(name, PALETTE[0], [Point(x, 50.0, 40.0, 60.0)])
        for name, x in (("alone", 1.0), ("crowd", 50.0), ("others", 51.0))
    ]
    (ax,) = draw_grid([[Panel("title", series, {})]], ["cost"]).axes
    aside = {text.get_text(): getattr(text, "arrow_patch", None) is not None for text in ax.texts}
    assert aside == {"alone": False, "crowd": True, "others": True}


def test_figures_of_the_documents_are_small_and_in_both_formats() -> None:
    text = "".join(path.read_text("utf-8") for path in DOCS.glob("*.md"))
    links = re.findall(r"\]\((\S+)\.png\)\]\((\S+)\.svg\)", text)
    assert {"ablation", "bench-pusht", "compute", "equal", "far-cube", "far-pusht"} <= {name for name, _ in links}
    for name, other in links:
        assert name == other
        for suffix in ("png", "svg"):
            assert (DOCS / f"{name}.{suffix}").stat().st_size < 150_000
