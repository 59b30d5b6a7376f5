"""A wheel and an sdist hold what is needed, and the package runs without the development tools."""
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from processes import completed

ROOT = Path(__file__).parents[1]
WITHOUT_TOOLS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
for tool in ("nbdev", "fastcore", "execnb", "IPython", "jupyterlab"): sys.modules[tool] = None  # an import of one fails
import clip_help_simclr
assert "editable" not in clip_help_simclr.__file__ and "installed" in clip_help_simclr.__file__, clip_help_simclr.__file__
from clip_help_simclr.cli import main
sys.exit(main(["demo", "--help"]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    listed = completed(["git", "ls-files", "-z"], cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    for name in filter(None, listed.stdout.split("\0")):
        if not (ROOT / name).exists(): continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    done = completed([sys.executable, "-m", "build", "--outdir", folder / "dist", source])
    assert done.returncode == 0, done.stderr
    return folder


def test_wheel_without_development_tools(built):
    wheel, = (built / "dist").glob("*.whl")
    installed = built / "installed"
    with zipfile.ZipFile(wheel) as z: z.extractall(installed)
    assert "chs = clip_help_simclr.cli:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    modules = {p.name for p in (ROOT / "clip_help_simclr").glob("*.py")}
    assert modules <= {p.name for p in (installed / "clip_help_simclr").iterdir()}
    done = completed([sys.executable, "-c", WITHOUT_TOOLS, installed], cwd=built)
    assert done.returncode == 0, done.stderr
    assert "--seeds" in done.stdout


def test_sdist_is_complete(built):
    sdist, = (built / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as t: names = {n.split("/", 1)[1] for n in t.getnames() if "/" in n}
    assert {"settings.ini", "setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert {f"clip_help_simclr/{p.name}" for p in (ROOT / "clip_help_simclr").glob("*.py")} <= names
