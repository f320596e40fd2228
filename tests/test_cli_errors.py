"""Errors and interruptions on the command line: what is printed, and the exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from lwm_agent.cli import main
from lwm_agent.cli.errors import error_message, interruptible
from lwm_agent.errors import UserError

COMMAND = [sys.executable, "-m", "lwm_agent"]


@pytest.fixture(autouse=True)
def _no_traceback_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWM_AGENT_TRACEBACK", "")
    monkeypatch.setattr(main, "handle_signals", lambda: None)


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception) -> tuple[int, str]:
    """Exit code and standard error of a command that raises `error`."""

    def fail(prog_name: str) -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_user_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, capsys, UserError("seed=[x] is odd")) == (2, "error seed=[x] is odd\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a.h5"), "a.h5: No such file or directory: check"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), b"b"), "b: Permission denied: change its perm"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "c"), "another process holds it"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device: free some space"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "d"), "Read-only file system: choose another place"),
    ],
)
def test_error_of_the_system_is_one_line_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, message: str
) -> None:
    code, printed = run_main(monkeypatch, capsys, error)
    assert code == 2
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("expected scalar type"),
        KeyError("latents"),
        OSError(errno.EINVAL, "Invalid argument", "x"),
        OSError("Can't read data"),
    ],
)
def test_bug_shows_its_traceback_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert error_message(error) is None
    code, printed = run_main(monkeypatch, capsys, error)
    assert code == 1
    assert "Traceback (most recent call last)" in printed
    assert "lwm-agent doctor" in printed.splitlines()[-1]


def test_traceback_of_a_user_error_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LWM_AGENT_TRACEBACK", "1")
    code, printed = run_main(monkeypatch, capsys, UserError("seed is odd"))
    assert code == 2
    assert "Traceback (most recent call last)" in printed
    assert printed.splitlines()[-1] == "error seed is odd"


@pytest.mark.parametrize("words", [["--traceback", "eval"], ["eval", "--traceback"]])
def test_traceback_flag_is_accepted_before_and_after_the_command(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, *words, "--seed", "-1"], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("interruption", "code"), [(KeyboardInterrupt, 130)])
def test_interruption_prints_the_advice_of_its_command(
    capsys: pytest.CaptureFixture[str], interruption: type[BaseException], code: int
) -> None:
    with pytest.raises(typer.Exit) as ended, interruptible("add --resume"):
        raise interruption
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == "interrupted: add --resume\n"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")])
def test_interruption_within_a_destructor_is_not_lost(number: signal.Signals, name: str) -> None:
    code = f"""
import signal, time
from lwm_agent.cli.errors import handle_signals
class Resource:
    def __del__(self):
        signal.raise_signal({number.value})
        "interrupted here: Python ignores it"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind may ignore it
handle_signals()
Resource()
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(name)
    assert "Resource.__del__" not in done.stderr


@pytest.fixture
def collecting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A collection of many episodes under way."""
    process = subprocess.Popen(
        [*COMMAND, "collect", "--out", "data.h5", "--episodes", "100000", "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_a_command_with_advice(
    collecting: subprocess.Popen[str], number: signal.Signals, code: int, word: str
) -> None:
    collecting.send_signal(number)
    printed, _ = collecting.communicate(timeout=60)
    assert collecting.returncode == code, printed
    assert f"{word}: the same command goes on" in printed
    assert "Traceback" not in printed
