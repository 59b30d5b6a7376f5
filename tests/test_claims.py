"""The links between notebooks lead somewhere: the table of claims in 10_cooccurrence above all."""
import json
import re
from pathlib import Path

import pytest

NBS = Path(__file__).parents[1] / "nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LINK = re.compile(r"\]\((?P<file>[\w/.-]*\.ipynb)?(?:#(?P<heading>[^)\s]+))?\)")


def markdown(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def headings(path):
    # JupyterLab's anchors: the heading's text with hyphens for spaces
    return {line.lstrip("#").strip().replace(" ", "-") for line in markdown(path).splitlines() if re.match(r"#{1,6} ", line)}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_between_notebooks(notebook):
    for link in LINK.finditer(markdown(notebook)):
        target = notebook.parent / link["file"] if link["file"] else notebook
        assert target.exists(), link[0]
        if link["heading"]: assert link["heading"] in headings(target), link[0]


def test_every_claim_links_to_its_check():
    text = markdown(NBS / "10_cooccurrence.ipynb")
    for claim in [f"R{i}" for i in range(9)]:
        row = re.search(rf"^\| {claim} \|.*$", text, re.M)
        assert row and LINK.search(row[0]), f"{claim}: no row with a link in the table of claims"
