"""Checkpoints to and from the Hugging Face hub, their scores on the model card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..checkpoint import Checkpoint, CheckpointError, check_replaceable, checksum, find_checkpoint
from ..checkpoint_config import CARD, CONFIG, DECODER, HEADS, WEIGHTS
from ..errors import MachineError, UserError
from ..eval.report import markdown_table
from ..eval.results_file import Results, parse_results
from ..files import read_text, replacing_folder, write_text
from ..imports import hub
from .config import PullConfig, PushConfig

FILES = (CONFIG, WEIGHTS, HEADS, DECODER, CARD)
FILM = "film"


def push(config: PushConfig) -> str:
    """Uploads a checkpoint with its card and returns its address; scores on the card are of the checkpoint itself.

    Raises:
        UserError: a result is of another checkpoint.
        MachineError: the hub refuses, or cannot be reached.
    """
    folder = find_checkpoint(config.checkpoint)
    Checkpoint.load(folder)  # nothing that is damaged is uploaded
    card = card_with_scores(folder, config.results, config.film)
    api = hub("the Hugging Face hub needs a package").HfApi()
    with TemporaryDirectory() as work:
        for name in FILES:
            if (folder / name).exists():
                shutil.copyfile(folder / name, Path(work) / name)
        write_text(Path(work) / CARD, card)
        if config.film is not None:
            shutil.copyfile(config.film, Path(work) / _film_name(config.film))
        try:
            api.create_repo(config.repository, private=config.private, exist_ok=True)
            upload = api.upload_folder(
                repo_id=config.repository, folder_path=work, commit_message=config.message or f"lwm-agent {folder.name}"
            )
        except Exception as error:  # of the network, of the hub: each has a class of its own
            raise MachineError(
                f"{config.repository} cannot be written ({error}): log in with `hf auth login`"
            ) from error
    return str(getattr(upload, "commit_url", upload))


def pull(config: PullConfig) -> Checkpoint:
    """Downloads a checkpoint, checks it, and puts it into the folder ``config.out``.

    Raises:
        CheckpointError: it is no checkpoint, or damaged.
        MachineError: the hub cannot be reached.
    """
    check_replaceable(config.out)
    client = hub("the Hugging Face hub needs a package")
    try:
        found = Path(client.snapshot_download(config.repository, revision=config.revision, allow_patterns=[*FILES]))
    except Exception as error:  # of the network, of the disk, of the hub: each has a class of its own
        raise MachineError(f"{config.repository} cannot be downloaded ({error})") from error
    if not (found / CONFIG).is_file():
        raise CheckpointError(f"{config.repository} is no checkpoint of lwm-agent: it has no {CONFIG}")
    Checkpoint.load(found)
    with replacing_folder(config.out) as work:
        for name in FILES:
            if (found / name).exists():
                shutil.copyfile(found / name, work / name)
    return Checkpoint.load(config.out)


def card_with_scores(folder: Path, results: Sequence[Path], film: Path | None) -> str:
    """The model card with a table of evaluations, their entry for the hub's leaderboards, and a film.

    Raises:
        UserError: a result is of another checkpoint.
    """
    card = read_text(folder / CARD) if (folder / CARD).exists() else ""
    own, found = checksum(folder), [parse_results(path) for path in results]
    for path, result in zip(results, found, strict=True):
        if result.run.get("checkpoint") != own:
            raise UserError(f"{path} is of another checkpoint than {folder}: evaluate this one")
    if film is not None:
        card = re.sub(
            r"^(# .*)$", rf"\1\n\n![The agent at work]({_film_name(film)})", card, count=1, flags=re.MULTILINE
        )
    if not found:
        return card
    table = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown_table(results))  # the files are not uploaded
    scores = (
        "\n## Scores\n\nTasks of lwm-agent; beside each score are its 95 % interval, and the scores of random actions "
        f"and of doing nothing on the same tasks.\n\n{table}\n"
    )
    return _with_index(card, folder, found) + scores


def _with_index(card: str, folder: Path, results: Sequence[Results]) -> str:
    """The card with ``model-index`` in its header, which the hub shows; JSON is YAML."""
    tasks = "{env_id} {protocol} {split}, offset {offset_env_steps}"
    entries = [
        {
            "task": {"type": "reinforcement-learning", "name": "goal-conditioned planning"},
            "dataset": {
                "type": result.run["tasks"]["env_id"],
                "name": ", ".join([tasks.format_map(result.run["tasks"]), *result.run.get("shifts", [])]),
            },
            "metrics": [
                {
                    "type": "success_rate",
                    "name": f"success of {result.run['planner']['name']}, % of {result.summary.n} tasks",
                    "value": round(100 * result.summary.success, 1),
                }
            ],
        }
        for result in results
    ]
    index = json.dumps([{"name": folder.name, "results": entries}])
    return card.replace("---\n", f"---\nmodel-index: {index}\n", 1)


def _film_name(film: Path) -> str:
    return FILM + film.suffix
