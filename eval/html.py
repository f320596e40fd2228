"""HTML in small pieces; every piece of text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path


def element(name: str, *content: str, **attributes: str) -> str:
    """An element around `content`, which is HTML; attributes are text, ``class_`` stands for class."""
    named = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{named}>{''.join(content)}</{name}>"


def text(value: str) -> str:
    """Text as HTML."""
    return escape(value)


def table(caption: str, header: Iterable[str], rows: Iterable[Iterable[str]], words: int) -> str:
    """A table of text that scrolls sideways where it is too wide; the first `words` columns are not numbers."""
    columns = [_cell("th", name, column >= words, scope="col") for column, name in enumerate(header)]
    lines = [element("tr", *(_cell("td", value, column >= words) for column, value in enumerate(row))) for row in rows]
    head, body = element("thead", element("tr", *columns)), element("tbody", *lines)
    whole = element("table", element("caption", text(caption)), head, body)
    return element("div", whole, class_="wide", tabindex="0", role="region", aria_label=caption)


def _cell(name: str, value: str, is_number: bool, **attributes: str) -> str:
    return element(name, text(value), **({"class_": "number"} if is_number else {}), **attributes)


def definitions(entries: Mapping[str, str]) -> str:
    """A list of terms and what they are."""
    return element("dl", *(element("dt", text(term)) + element("dd", text(value)) for term, value in entries.items()))


def video(path: Path, label: str) -> str:
    """A video whose file is a part of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    opening = f'<video controls muted loop playsinline preload="metadata" aria-label="{escape(label)}"'
    return f'{opening} src="data:video/mp4;base64,{data}"></video>'


def page(title: str, style: str, *content: str) -> str:
    """A whole page."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
    )
    head += element("title", text(title)) + element("style", style)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{element("main", *content)}</body></html>\n'
