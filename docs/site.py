"""Hooks of the site: files that lie outside of docs/, and links to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
NOTEBOOK = "quickstart"


def on_files(files: Files, config: Any) -> Files:
    """Adds the README, the changelog, the notebook as a page, the results and the examples."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=page_of(ROOT / "docs" / f"{NOTEBOOK}.ipynb")))
    for folder in ("results", "examples"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            if path.suffix in (".json", ".py"):
                files.append(
                    File.generated(config, f"{folder}/{path.relative_to(ROOT / folder)}", abs_src_path=str(path))
                )
    return files


def page_of(path: Path) -> str:
    """Markdown of a notebook: its texts, and its code in blocks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"] == "code", "".join(cell["source"])) for cell in cells]
    title, *others = [f"```python\n{text}\n```" if is_code else text for is_code, text in texts]
    return "\n\n".join([title, f"[This page as a notebook]({path.name})", *others])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they lead from a page of the site: docs/ is its root, and results/ lies there too."""
    if page.file.src_uri in PAGES:
        markdown = re.sub(r"\]\(docs/", "](", markdown)
        for name, source in PAGES.items():
            markdown = markdown.replace(f"]({source})", f"]({name})")
        markdown = markdown.replace("[CITATION.cff](CITATION.cff)", "CITATION.cff")
    elif page.file.src_uri != f"{NOTEBOOK}.md":
        markdown = markdown.replace(f"]({NOTEBOOK}.ipynb)", f"]({NOTEBOOK}.md)")
    markdown = re.sub(r"\]\(\.\./(results|examples)/", r"](\1/", markdown)
    return markdown.replace("[`results/`](../results)", "`results/`")
