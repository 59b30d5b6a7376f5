"""Render README.md from nbs/index.ipynb: hidden cells and `#|` lines dropped, pictures beside the notebook.

usage: python .github/render_readme.py [--check]
"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
HIDDEN = re.compile(r"^#\|\s*hide\b|^#\|\s*default_exp\b", re.M)


def render() -> str:
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [c for c in notebook.cells if not (c.cell_type == "code" and HIDDEN.search(c.source))]
    for cell in notebook.cells:
        if cell.cell_type == "code": cell.source = "" if "#| echo: false" in cell.source else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    notebook.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    note = "<!-- Rendered from nbs/index.ipynb by .github/render_readme.py: edit the notebook. -->\n\n"
    # the notebook lives in nbs/, the README one folder above
    text = re.sub(r"\]\((?!https?:|\.\./|#)", "](nbs/", text).replace("](../", "](")
    text = re.sub(r"```python\s*```\n", "", text)
    return note + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    if "--check" in sys.argv: sys.exit(0 if readme.read_text(encoding="utf-8") == render() else "README.md is stale: run python .github/render_readme.py")
    readme.write_text(render(), encoding="utf-8", newline="\n")
