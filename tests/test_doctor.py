from __future__ import annotations

import subprocess
from typing import Any

import pytest
from typer.testing import CliRunner

from lwm_agent.cli import doctor
from lwm_agent.cli.doctor import Check, checks
from lwm_agent.cli.main import app
from lwm_agent.compute.device import fast_bf16, resolve_device
from lwm_agent.envs import opengl
from lwm_agent.errors import MachineError


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What each backend answers when it is tried."""
    answers: dict[str, str | None] = {}
    monkeypatch.setattr(doctor, "try_backend", lambda name: answers.get(name))
    monkeypatch.setattr(doctor, "BACKENDS", ("egl", "osmesa"))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    return answers


def found(name: str) -> Check:
    return next(check for check in checks() if check.name == name)


def test_what_works_is_told(drawing: dict[str, str | None]) -> None:
    rows = {check.name: check for check in checks()}
    assert rows["torch"].found.split(".")[0] == "2"
    verdict = "is fast" if fast_bf16(resolve_device("auto")) else "is no faster"
    assert f"threads; bf16 {verdict}" in rows["torch computes on"].found
    assert rows["MuJoCo draws with"] == Check("MuJoCo draws with", "egl")
    assert rows["ffmpeg"].found.startswith("ffmpeg version")
    assert "pusht-tiny" in rows["checkpoints"].found


def test_a_checkpoint_whose_encoder_is_an_extra_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name == "cube-tiny":
            raise MachineError("pip install 'lwm-agent[lite]'")

    monkeypatch.setattr("lwm_agent.checkpoint.Checkpoint.load", load)
    row = found("checkpoints")
    assert row.remedy is None
    assert "cube-tiny (not usable yet: pip install 'lwm-agent[lite]')" in row.found


def test_the_second_backend_will_do(drawing: dict[str, str | None]) -> None:
    drawing["egl"] = "libEGL is missing"
    assert found("MuJoCo draws with") == Check("MuJoCo draws with", "osmesa")


def test_no_backend_names_the_packages(drawing: dict[str, str | None]) -> None:
    drawing.update(egl="libEGL is missing", osmesa="no frame within 60 s")
    check = found("MuJoCo draws with")
    assert "egl: libEGL is missing; osmesa: no frame" in check.found
    assert check.remedy is not None
    assert "libegl1 libgl1-mesa-dri libopengl0, or libosmesa6" in check.remedy


def test_a_wrong_choice_is_blamed(drawing: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    drawing["glfw"] = "no display"
    remedy = found("MuJoCo draws with").remedy
    assert remedy is not None
    assert remedy.startswith("Unset MUJOCO_GL=glfw")


def test_broken_parts_are_problems(drawing: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: Any, **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired("ffmpeg", 20)

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    ffmpeg = found("ffmpeg")
    assert "timed out" in ffmpeg.found
    assert ffmpeg.remedy is not None
    assert found("no-such-package") == Check("no-such-package", "not installed", "pip install no-such-package")


@pytest.mark.parametrize(("remedy", "code"), [(None, 0), ("buy [another] one", 1)])
def test_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, remedy: str | None, code: int) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: iter([Check("screen", "flat [OLED]", remedy)]))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    for text in ("screen", "flat [OLED]", remedy or "ok"):
        assert text in result.output


def test_trial_never_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengl, "TRIAL_SECONDS", 0.01)
    assert opengl.try_backend("egl") == "no frame within 0.01 s"


def test_trial_tells_what_is_wrong() -> None:
    problem = opengl.try_backend("nonsense")
    assert problem is not None
    assert "nonsense" in problem


def test_choice_is_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(opengl, "BACKENDS", ("first", "second"))
    monkeypatch.setattr(opengl, "try_backend", {"first": "broken", "second": None}.get)
    choose = opengl.choose_backend.__wrapped__
    assert choose() == "second"
    monkeypatch.setattr(opengl, "try_backend", lambda name: "broken")
    assert choose() == "second"  # MUJOCO_GL tells
    monkeypatch.setenv("MUJOCO_GL", "")
    with pytest.raises(RuntimeError, match=r"first: broken; second: broken.*apt-get install libegl1"):
        choose()
