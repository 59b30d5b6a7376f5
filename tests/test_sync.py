"""Notebooks and library are in sync and clean: cleaning and exporting a copy of the tree changes nothing."""
import os
import shutil
import sys
from pathlib import Path

from processes import completed

ROOT = Path(__file__).parents[1]
SOURCES = ["nbs", "clip_help_simclr", "settings.ini", "setup.py", "pyproject.toml", "README.md"]


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes().replace(b"\r\n", b"\n") for name in SOURCES for top in [root / name]
            for p in ([top] if top.is_file() else top.rglob("*")) if p.suffix in {".ipynb", ".py", ".toml", ".md"} and ".ipynb_checkpoints" not in p.parts}


def test_clean_and_exported(tmp_path):
    for name in SOURCES:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source, tmp_path / name, ignore=ignore) if source.is_dir() else shutil.copy(source, tmp_path / name)
    # a renamed notebook leaves its old module behind, and a plain export would not show it
    for module in (tmp_path / "clip_help_simclr").rglob("*.py"):
        if module.name != "__init__.py": module.unlink()
    run = "from nbdev.clean import nbdev_clean; from nbdev.doclinks import nbdev_export; nbdev_clean(); nbdev_export()"
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = completed([sys.executable, "-c", run], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    before, after = files(ROOT), files(tmp_path)
    assert sorted(before) == sorted(after)
    stale = [name for name in before if before[name] != after[name]]
    assert not stale, f"not clean or not exported: {stale}. Run `nbdev_clean` and `nbdev_export`, then commit"
