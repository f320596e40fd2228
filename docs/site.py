"""Hooks of the site: files that lie outside of docs/, and links to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the README, the changelog, the results and the examples."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for folder in ("results", "examples"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            if path.suffix in (".json", ".py"):
                files.append(
                    File.generated(config, f"{folder}/{path.relative_to(ROOT / folder)}", abs_src_path=str(path))
                )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they lead from a page of the site: docs/ is its root, and results/ lies there too."""
    if page.file.src_uri in PAGES:
        markdown = re.sub(r"\]\(docs/", "](", markdown)
        for name, source in PAGES.items():
            markdown = markdown.replace(f"]({source})", f"]({name})")
        markdown = markdown.replace("[CITATION.cff](CITATION.cff)", "CITATION.cff")
    markdown = re.sub(r"\]\(\.\./(results|examples)/", r"](\1/", markdown)
    return markdown.replace("[`results/`](../results)", "`results/`")
