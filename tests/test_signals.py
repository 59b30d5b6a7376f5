"""Signals that ask to stop, and kills that ask nothing: real processes, started as a user would start them."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clip_help_simclr.core import Interrupted, remove_leftovers, save_tensors
from clip_help_simclr.training import checkpoints, read_checkpoint

if os.name != "posix": pytest.skip("needs POSIX signals", allow_module_level=True)

TRAIN = """
import signal, sys, torch
if sys.argv[2] == "nohup": signal.signal(signal.SIGHUP, signal.SIG_IGN)
from clip_help_simclr.core import Interrupted
from clip_help_simclr.data import load_data
from clip_help_simclr.training import PretrainConfig, pretrain
import clip_help_simclr.training as training
data = load_data("digits").train.subset(torch.arange(640))
config = PretrainConfig(width=4, epochs=2 if sys.argv[2] == "nohup" else 2000, batch_size=32, device="cpu", tracker="none", checkpoint_minutes=0.001)
if sys.argv[2] == "nohup":
    step = training._one_step
    def hung_up(run, batch):
        if run.step == 3: signal.raise_signal(signal.SIGHUP)
        step(run, batch)
    training._one_step = hung_up
try: pretrain(config, data, folder=sys.argv[1])
except Interrupted as e: sys.exit(128 + e.signum)
"""


def start(folder, how="", **environment):
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(folder), how], stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def until(happened, limit=120):
    end = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < end, "nothing happened within the limit"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves(name, tmp_path):
    run = start(tmp_path)
    until(lambda: checkpoints(tmp_path) or run.poll() is not None)
    before = read_checkpoint(tmp_path)[0]["step"]
    run.send_signal(getattr(signal, name))
    _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + getattr(signal, name), said
    assert read_checkpoint(tmp_path)[0]["step"] >= before > 0
    assert "Traceback" not in said and not list(tmp_path.glob(".*"))


def test_nohup(tmp_path):
    run = start(tmp_path, "nohup")
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0 and read_checkpoint(tmp_path)[0]["step"] == 40, said


def test_all_processes_stop_after_the_same_step(tmp_path):
    common = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(20_000 + os.getpid() % 20_000), ACCELERATE_USE_CPU="1", OMP_NUM_THREADS="1")
    runs = [start(tmp_path, **common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
    try:
        until(lambda: checkpoints(tmp_path) or any(run.poll() is not None for run in runs))
        runs[1].send_signal(signal.SIGTERM)  # the other one hears of it through the group
        said = [run.communicate(timeout=120)[1] for run in runs]
    finally:
        for run in runs: run.kill()
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


def test_kills_leave_nothing(tmp_path):
    target = tmp_path / "rows.safetensors"
    left = 0
    for delay in (0.0, 0.013, 0.029, 0.041):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(target), ""], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.communicate(timeout=60)
        found = [path for path in tmp_path.iterdir() if path != target]
        left += len(found)
        assert sorted(remove_leftovers(tmp_path)) == sorted(found)
        assert list(tmp_path.iterdir()) == [target]
    from safetensors.torch import load_file
    assert load_file(target)["rows"].shape == (8_000_000,)
    assert left, "no kill came while a file was being written"


def test_living_writers_keep_their_files(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / "text"), "hold"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "writing\n"
        assert remove_leftovers(tmp_path) == [] and len(list(tmp_path.iterdir())) == 1
    finally:
        writer.kill()
        writer.communicate(timeout=60)
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
    run = start(tmp_path)
    try:
        until(lambda: checkpoints(tmp_path) or run.poll() is not None)
        other = start(tmp_path)
        _, said = other.communicate(timeout=120)
        assert other.returncode == 1 and "another process is at work in" in said
        assert run.poll() is None
    finally:
        run.kill()
        run.communicate(timeout=60)


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
