"""Checkpoints to and from the Hugging Face hub, whose part a folder plays."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwm_agent.checkpoint import Checkpoint, CheckpointError, checksum, find_checkpoint
from lwm_agent.errors import MachineError, UserError
from lwm_agent.experiments.config import PullConfig, PushConfig
from lwm_agent.experiments.hub import pull, push

RESULTS = Path(__file__).parent.parent / "results"
FILM = Path(__file__).parent.parent / "docs" / "demo-pusht.gif"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has a folder for each repository and revision."""
    root = tmp_path / "hub"

    def create_repo(repository: str, *, private: bool, exist_ok: bool) -> None:
        (root / repository).mkdir(parents=True, exist_ok=exist_ok)
        (root / repository / "private").write_text(str(private))

    def upload_folder(*, repo_id: str, folder_path: str, commit_message: str) -> Any:
        shutil.copytree(folder_path, root / repo_id / "main")
        return SimpleNamespace(commit_url=f"hub/{repo_id}: {commit_message}")

    def snapshot_download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        found = root / repository / (revision or "main")
        if not found.exists():
            raise OSError("404")
        for path in found.iterdir():
            assert path.name in allow_patterns or path.name.startswith("film")
        return str(found)

    api = SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)
    module = SimpleNamespace(HfApi=lambda: api, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return root


def test_a_checkpoint_comes_back_as_it_was(hub: Path, tmp_path: Path) -> None:
    address = push(PushConfig(checkpoint="pusht-tiny", repository="someone/pusht", private=True))
    assert address == "hub/someone/pusht: lwm-agent pusht-tiny"
    assert (hub / "someone/pusht/private").read_text() == "True"
    pull(PullConfig(repository="someone/pusht", out=str(tmp_path / "mine")))
    assert checksum(tmp_path / "mine") == checksum("pusht-tiny")
    assert Checkpoint.load(tmp_path / "mine").heads is not None
    assert "private" not in {path.name for path in (tmp_path / "mine").iterdir()}


def test_the_card_has_scores_floors_an_index_and_a_film(hub: Path) -> None:
    results = (RESULTS / "tiny" / "pusht-guided-25.json", RESULTS / "tiny" / "pusht-actor-50.json")
    push(PushConfig(checkpoint="pusht-tiny", repository="someone/pusht", results=results, film=FILM))
    place = hub / "someone/pusht/main"
    card = (place / "README.md").read_text()
    assert "| lwm/PushT-v0 | strict test | 25 | `guided` | **74.0** | 67.5-79.6 | 200 | 1.0 | 0.0 |" in card
    assert "](film.gif)" in card
    assert (place / "film.gif").read_bytes() == FILM.read_bytes()
    header = card.split("---\n")[1]
    (line,) = [line for line in header.splitlines() if line.startswith("model-index: ")]
    (entry,) = json.loads(line.removeprefix("model-index: "))
    first, second = entry["results"]
    assert first["metrics"][0]["value"] == 74.0
    assert second["dataset"]["name"] == "lwm/PushT-v0 strict test, offset 50"
    own = (find_checkpoint("pusht-tiny") / "README.md").read_text()
    assert "model-index" not in own  # the checkpoint itself stays as it is


def test_results_of_another_checkpoint_are_refused(hub: Path) -> None:
    config = PushConfig(checkpoint="cube-tiny", repository="someone/cube", results=(RESULTS / "pusht-guided-25.json",))
    with pytest.raises(UserError, match=r"pusht-guided-25\.json is of another checkpoint than"):
        push(config)
    assert not hub.exists()


def damage(change: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        if change == "weights":
            data = bytearray((folder / "model.safetensors").read_bytes())
            data[-1] ^= 1
            (folder / "model.safetensors").write_bytes(data)
        else:
            (folder / "config.json").unlink()

    return apply


@pytest.mark.parametrize(
    ("change", "message"), [("weights", "is not what was saved"), ("config", "has no config.json")]
)
def test_damaged_checkpoints_leave_nothing(change: str, message: str, hub: Path, tmp_path: Path) -> None:
    push(PushConfig(checkpoint="pusht-tiny", repository="someone/pusht"))
    damage(change)(hub / "someone/pusht/main")
    with pytest.raises(CheckpointError, match=message):
        pull(PullConfig(repository="someone/pusht", out=str(tmp_path / "mine")))
    assert not (tmp_path / "mine").exists()


def test_what_the_hub_says_is_passed_on(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match=r"someone/else cannot be downloaded \(404\)"):
        pull(PullConfig(repository="someone/else", out=str(tmp_path / "mine"), revision="abc"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MachineError, match=r"the Hugging Face hub needs a package: pip install 'huggingface-hub"):
        pull(PullConfig(repository="someone/else", out=str(tmp_path / "mine")))


@pytest.mark.parametrize("repository", ["pusht", "a/b/c", "a b/c", "../x"])
def test_names_that_are_no_ids_are_refused(repository: str) -> None:
    with pytest.raises(UserError, match="is no id of the Hugging Face hub: write OWNER/NAME"):
        PullConfig(repository=repository, out="o")
