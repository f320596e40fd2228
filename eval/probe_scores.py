"""Scores of probes: how well quantities are read from latents of frames, of imagined and of painted ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.quantities import Quantity
from ..errors import UserError
from ..files import write_text
from .bootstrap import Bootstrap, Interval
from .json_file import parse_json, read_text

FRAMES, IMAGINED, STILL, PAINTED = "frames", "imagined", "still", "painted"
"""Latents of a score: of real frames; imagined; of the first frame, as if nothing moved; of pictures of latents."""

BEST = "mlp"
"""Probe that reads painted pictures in tables, and imagined latents."""

POINTS = 400
"""Frames of a quantity whose truth and reading are kept, for a scatter plot."""

KIND = "the results of lwm-agent probe"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Held-out readings of one quantity by one probe. Intervals are over episodes.

    Attributes:
        quantity: its name.
        unit: unit of its errors.
        probe: name in `PROBES`.
        latents: `FRAMES`, `IMAGINED`, `STILL` or `PAINTED`.
        block: action blocks from the present to the frame whose quantity is read; None where all frames count.
        n: frames.
        r2: coefficient of determination, mean over the numbers of the quantity, sines and cosines of angles.
        r: Pearson's correlation, likewise.
        median: median error, in `unit`.
        p90: ninth decile of the errors, in `unit`.
        tolerance: error, in `unit`, up to which the quantity counts as being where it should be, or None.
        within: share of the frames whose error is no larger, or None.
    """

    quantity: str
    unit: str
    probe: str
    latents: str
    block: int | None = None
    n: int
    r2: Interval
    r: Interval
    median: Interval
    p90: Interval
    tolerance: float | None
    within: Interval | None


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """All that a run of probes has measured.

    Attributes:
        model: name of the model's kind.
        checkpoint: name or folder of the checkpoint.
        env: name of the environment.
        frameskip: environment steps of an action block.
        latent_size: numbers of a latent that probes see.
        fitted_frames: frames that probes were fitted on.
        fitted_episodes: their episodes.
        episodes: held-out episodes, of which the scores are.
        effective_rank: effective rank of held-out latents.
        straightness: mean cosine between successive changes of a latent, a block apart.
        left_out: quantities that could not be read, and why.
        scores: the scores.
        points: truth and reading of a few held-out frames, of each quantity by `BEST`: ``(2, points, n)``.
        published: correlations that others report: quantity, model, and linear and MLP.
    """

    model: str
    checkpoint: str
    env: str
    frameskip: int
    latent_size: int
    fitted_frames: int
    fitted_episodes: int
    episodes: int
    effective_rank: float
    straightness: Interval
    left_out: Mapping[str, str]
    scores: list[Score]
    points: Mapping[str, list[list[list[float]]]]
    published: Mapping[str, Mapping[str, tuple[float, float]]]

    def select(self, **wanted: Any) -> list[Score]:
        """Scores whose attributes are as `wanted`."""
        return [score for score in self.scores if all(getattr(score, key) == value for key, value in wanted.items())]

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that were read."""
        return list(dict.fromkeys(score.quantity for score in self.scores))

    @property
    def horizon(self) -> int:
        """Most blocks ahead that were imagined; 0 of a model that imagines nothing."""
        return max((score.block or 0 for score in self.select(latents=IMAGINED)), default=0)


def score(quantity: Quantity, targets: NDArray[np.float64], bootstrap: Bootstrap, /, **names: Any) -> Score:
    """Score of predicted `targets` ``(N, m)`` of a quantity; `names` are further attributes of the score."""
    errors = quantity.errors(quantity.read(targets))
    tolerance = quantity.tolerance
    near = None if tolerance is None else (errors <= tolerance).astype(float)
    return Score(
        **names,
        unit=quantity.unit,
        n=len(errors),
        r2=bootstrap.r2(targets, quantity.targets),
        r=bootstrap.pearson(targets, quantity.targets),
        median=bootstrap.quantile(errors, 0.5),
        p90=bootstrap.quantile(errors, 0.9),
        tolerance=tolerance,
        within=None if near is None else bootstrap.mean(near),
    )


def points(quantity: Quantity, targets: NDArray[np.float64]) -> list[list[list[float]]]:
    """Truth and reading of at most `POINTS` frames, spread evenly over all."""
    rows = np.unique(np.linspace(0, len(targets) - 1, POINTS).round().astype(int))
    pair = np.stack([quantity.values[rows], quantity.read(targets[rows])])
    if quantity.period is not None:  # angles as they are read, once round
        pair = (pair + quantity.period / 2) % quantity.period - quantity.period / 2
    kept: list[list[list[float]]] = [[[float(f"{x:.4g}") for x in row] for row in side] for side in pair]
    return kept


def save_report(report: ProbeReport, run: Mapping[str, Any], path: Path) -> None:
    """Writes a report and the provenance `run` as JSON, at once or not at all."""
    write_text(path, json.dumps({"run": dict(run), **asdict(report)}, allow_nan=False) + "\n")


def read_report(path: Path | str) -> ProbeReport:
    """The report in a file that `save_report` wrote.

    Raises:
        UserError: it is another file.
    """
    text = read_text(path, KIND)
    try:
        contents = parse_json(text)
        del contents["run"]
        scores = [_score(entry) for entry in contents.pop("scores")]
        return ProbeReport(**{**contents, "straightness": Interval(**contents["straightness"]), "scores": scores})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not {KIND} ({error}): measure again") from error


def _score(entry: Mapping[str, Any]) -> Score:
    values: dict[str, Any] = {
        key: Interval(**value) if isinstance(value, dict) else value for key, value in entry.items()
    }
    return Score(**values)
