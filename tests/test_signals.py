"""Signals that ask to stop, and kills that ask nothing: real processes, started as a user would start them."""
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import free_port, kill, read_line, started, wait_until

from clip_help_simclr.core import Interrupted, remove_leftovers, save_tensors
from clip_help_simclr.training import checkpoints, read_checkpoint

if os.name != "posix": pytest.skip("needs POSIX signals", allow_module_level=True)

TRAIN = """
import signal, sys, torch
if sys.argv[2] == "nohup": signal.signal(signal.SIGHUP, signal.SIG_IGN)
from clip_help_simclr.core import Interrupted
from clip_help_simclr.data import load_data
from clip_help_simclr.training import PretrainConfig, Run, pretrain
data = load_data("digits").train.subset(torch.arange(640))
config = PretrainConfig(width=4, epochs=2 if sys.argv[2] == "nohup" else 2000, batch_size=32, device="cpu", tracker="none", checkpoint_minutes=0.001)
if sys.argv[2] == "nohup":
    step = Run.train_step
    def hung_up(run, batch):
        if run.step == 3: signal.raise_signal(signal.SIGHUP)
        step(run, batch)
    Run.train_step = hung_up
try: pretrain(config, data, folder=sys.argv[1])
except Interrupted as e: sys.exit(128 + e.signum)
"""


def start(folder, how="", **environment):
    return started([sys.executable, "-c", TRAIN, str(folder), how], stdout=subprocess.DEVNULL, env=os.environ | environment)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves(name, tmp_path):
    with start(tmp_path) as run:
        wait_until(lambda: checkpoints(tmp_path), run)
        before = read_checkpoint(tmp_path)[0]["step"]
        run.send_signal(getattr(signal, name))
        _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + getattr(signal, name), said
    assert read_checkpoint(tmp_path)[0]["step"] >= before > 0
    assert "Traceback" not in said and not list(tmp_path.glob(".*"))


def test_nohup(tmp_path):
    with start(tmp_path, "nohup") as run: _, said = run.communicate(timeout=120)
    assert run.returncode == 0 and read_checkpoint(tmp_path)[0]["step"] == 40, said


def test_all_processes_stop_after_the_same_step(tmp_path):
    common = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), ACCELERATE_USE_CPU="1", OMP_NUM_THREADS="1")
    first, second = (start(tmp_path, **common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1))
    with first as one, second as other:
        runs = [one, other]
        wait_until(lambda: checkpoints(tmp_path) or one.poll() is not None, other)
        other.send_signal(signal.SIGTERM)  # the first one hears of it through the group
        said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [143, 143], said
    assert read_checkpoint(tmp_path)[0]["step"] > 0


WRITE = """
import sys, torch
from clip_help_simclr.core import atomic_path, save_tensors
if sys.argv[2] == "hold":
    with atomic_path(sys.argv[1]) as part:
        part.write_text("half")
        print("writing", flush=True)
        sys.stdin.read()
rows = torch.zeros(8_000_000)
while True:
    save_tensors(sys.argv[1], dict(rows=rows))
    print("written", flush=True)
"""


def writer(path, how=""):
    return started([sys.executable, "-c", WRITE, str(path), how], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_kills_leave_nothing(tmp_path):
    target, left, draw = tmp_path / "rows.safetensors", 0, random.Random(0)
    for trial in range(40):
        with writer(target) as running:
            read_line(running)
            time.sleep(0.05 * draw.random())
            kill(running)
        found = [path for path in tmp_path.iterdir() if path != target]
        left += len(found)
        assert sorted(remove_leftovers(tmp_path)) == sorted(found)
        assert list(tmp_path.iterdir()) == [target]
        if left and trial >= 3: break
    from safetensors.torch import load_file
    assert load_file(target)["rows"].shape == (8_000_000,)
    assert left, "no kill of forty came while a file was being written"


def test_living_writers_keep_their_files(tmp_path):
    with writer(tmp_path / "text", "hold") as running:
        assert read_line(running) == "writing\n"
        assert remove_leftovers(tmp_path) == [] and len(list(tmp_path.iterdir())) == 1
    assert len(remove_leftovers(tmp_path)) == 1 and not list(tmp_path.iterdir())


def test_failed_write_keeps_what_was_there(tmp_path):
    target = save_tensors(tmp_path / "rows.safetensors", dict(rows=torch.ones(3)))
    before = target.read_bytes()
    with pytest.raises(Exception): save_tensors(target, dict(rows="no tensor"))
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_pickled():
    import pickle
    again = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert again.signum == 15 and isinstance(again, KeyboardInterrupt) and "SIGTERM" in str(again)


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with start(tmp_path) as run:
        wait_until(lambda: checkpoints(tmp_path), run)
        with start(tmp_path) as other: _, said = other.communicate(timeout=120)
        assert other.returncode == 1 and "another process is at work in" in said
        assert run.poll() is None


def test_a_second_ctrl_c_interrupts_at_once():
    from clip_help_simclr.core import stop_signals
    done = []
    with pytest.raises(Interrupted) as stop, stop_signals() as seen:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same press, handed on by a launcher
        done.append(list(seen))
        time.sleep(1.1)
        signal.raise_signal(signal.SIGTERM)  # no Ctrl-C
        done.append(list(seen))
        signal.raise_signal(signal.SIGINT)
        done.append("too far")
    assert stop.value.signum == signal.SIGINT and done == [[2, 2], [2, 2, 15]]
