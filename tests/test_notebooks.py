"""Every notebook executes from top to bottom, each in a process of its own."""
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from processes import SECONDS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)

# A server with one thread imports what all notebooks need, once, and makes a fresh process of itself for each of them.
FRESH = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
if hasattr(FRESH, "set_forkserver_preload"):
    FRESH.set_forkserver_preload(["torch", "pandas", "seaborn", "matplotlib.pyplot", "sklearn", "scipy.stats", "nbdev.test", "fastcore.test"])


def execute(notebook, log):
    "The body of the process, which leads a group with whatever the notebook starts."
    if hasattr(os, "setsid"): os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2): os.dup2(output, stream)
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONUTF8": "1"}  # one thread per notebook: they run side by side
    from nbdev.test import nbdev_test
    nbdev_test(path=str(notebook), n_workers=0)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_notebook(notebook, tmp_path):
    log = tmp_path / "log"
    process = FRESH.Process(target=execute, args=(notebook, log))
    process.start()
    process.join(max(540, SECONDS))
    if process.is_alive():
        if hasattr(os, "killpg"): os.killpg(process.pid, signal.SIGKILL)
        else: process.kill()
        process.join(60)
        pytest.fail(f"{notebook.name} takes too long:\n{log.read_text(errors='replace')[-6000:]}")
    said = log.read_text(errors="replace") if log.exists() else ""
    assert process.exitcode == 0 and "Failed" not in said, said[-6000:]
