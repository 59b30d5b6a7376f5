"""README.md is what its notebook renders to."""
import re
import sys
from pathlib import Path

from processes import completed


def test_fresh():
    done = completed([sys.executable, Path(__file__).parents[1] / ".github" / "render_readme.py", "--check"])
    assert done.returncode == 0, done.stderr


def test_its_links_lead_somewhere():
    "Those of the tables too, which come from outputs."
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (root / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 50
    dead = sorted({link for link in links if not (root / link).exists()})
    assert not dead, dead
