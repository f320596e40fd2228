"""HTML in small pieces; every piece of text is escaped here."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from .figures import FAINT, GRID, INK

STYLE = """
:root { --ink: #24292f; --faint: #57606a; --paper: #ffffff; --line: #d8dee4; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9da7b1; --paper: #0d1117; --line: #30363d; --soft: #161b22; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); }
.lead { font-size: 1.1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
caption { max-width: calc(100vw - 2rem); }
caption { text-align: left; color: var(--faint); padding-bottom: 0.4rem; position: sticky; left: 0; }
th, td { padding: 0.3rem 0.6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--soft); font-weight: 600; }
td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 4rem; }
.number { text-align: right; }
figure { margin: 1.5rem 0; }
figure svg { display: block; max-width: max(100%, min(38rem, 0.75 * var(--natural, 60rem))); height: auto; }
figcaption, dt { color: var(--faint); font-size: 0.875rem; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
.films figure { margin: 0; }
video { width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }
summary { cursor: pointer; }
dd { margin: 0 0 0.6rem; overflow-wrap: anywhere; }
"""


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


def drawing(svg: str) -> str:
    """A figure of the house as a part of the page, in whose colours it is drawn; narrow pages shrink it a little."""
    return (
        re.sub(r'<svg (.*?width="([\d.]+pt)")', r'<svg style="--natural: \2" \1', svg[svg.index("<svg") :], count=1)
        .replace(INK, "currentColor")
        .replace(FAINT, "var(--faint)")
        .replace(GRID, "var(--line)")
    )


def page(title: str, *content: str) -> str:
    """A whole page in the style of the house, light or dark as the reader likes it."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
    )
    head += element("title", text(title)) + element("style", STYLE)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{element("main", *content)}</body></html>\n'
