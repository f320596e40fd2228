"""Terminal output: progress bars, tables that keep every digit, and the two consoles."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..eval.comparison_table import TextTable

# Paths may have brackets; a log has long lines as they are, so that a command can be copied.
console = Console(markup=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> Console:
    """The console of standard error, as it is now."""
    return Console(stderr=True)


def counted(number: int, noun: str) -> str:
    """A number and a noun in its form: "1 video", "2 videos"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show_table(table: Table) -> None:
    """Prints a table; where it is wider than the terminal, each row becomes a paragraph, so that nothing is cut."""
    width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if not console.is_terminal:
        console.width = max(width, console.width)  # a file has room for every column
    if width <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    for row in zip(*columns, strict=True):
        cells = [f"{column.header} {cell}".strip() for column, cell in zip(table.columns, row, strict=True) if cell]
        console.print("\N{BULLET} " + ",  ".join(cells), highlight=False)


def show_text_table(table: TextTable) -> None:
    """Prints a table of plain text."""
    shown = Table(title=table.caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column, name in enumerate(table.header):
        number = column >= table.words
        shown.add_column(name, justify="right" if number else "left", no_wrap=number)
    for row in table.rows:
        shown.add_row(*row)
    show_table(shown)


def show_metrics(metrics: Mapping[str, float]) -> None:
    """Prints the validation metrics of a training."""
    table = Table(title="validation", box=None)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)


class CountColumn(ProgressColumn):
    """Number of steps done, of how many: "3/50"; nothing before the total is known."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text("" if task.total is None else f"{int(task.completed)}/{int(task.total)}", style="progress.download")


@contextmanager
def bar(title: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left; yields ``update(done, total, text="")``."""
    with bars(unit) as update:
        update(title, 0, None)
        yield partial(update, title)


@contextmanager
def bars(unit: str = "") -> Iterator[Callable[..., None]]:
    """A progress bar for each task as it comes; yields ``update(title, done, total, text="")``."""
    if not console.is_terminal:
        yield _lines(unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), CountColumn(), TextColumn(unit))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"), console=console
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def update(title: str, done: int, total: int | None, text: str = "") -> None:
            if title not in tasks:
                tasks[title] = progress.add_task(title, total=total, text="")
            progress.update(tasks[title], completed=done, total=total, text=text)

        yield update


def _lines(unit: str, every_s: float = 30.0) -> Callable[..., None]:
    """Progress in a log file: a line now and then, and one at the end of each task."""
    last_printed: dict[str, float] = {}

    def update(title: str, done: int, total: int | None, text: str = "") -> None:
        now = time.monotonic()
        if done == total or now - last_printed.setdefault(title, now) >= every_s:
            last_printed[title] = now
            count = f"{done}" if total is None else f"{done}/{total}"
            console.print(f"{title} {count} {unit} {text}".rstrip(), highlight=False, soft_wrap=True)

    return update
