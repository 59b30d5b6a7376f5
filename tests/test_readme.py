"""README.md is what its notebook renders to."""
import subprocess
import sys
from pathlib import Path


def test_fresh():
    done = subprocess.run([sys.executable, Path(__file__).parents[1] / ".github" / "render_readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
