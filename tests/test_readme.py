"""README.md is what its notebook renders to."""
import sys
from pathlib import Path

from processes import completed


def test_fresh():
    done = completed([sys.executable, Path(__file__).parents[1] / ".github" / "render_readme.py", "--check"])
    assert done.returncode == 0, done.stderr
