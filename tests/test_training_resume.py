"""A run that is killed at any moment and called again ends with the weights, the optimizer state and the history of a run that was left alone, to the bit."""
import json
import os
import subprocess
import sys

import pytest

if not hasattr(os, "fork"): pytest.skip("needs fork", allow_module_level=True)

# One process imports torch and then forks a child for each run, so that ten kills cost seconds and not minutes.
RUNS = """
import json, os, random, signal, sys, time
from pathlib import Path
import accelerate, torch
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import LabelGuide
from clip_help_simclr.training import PretrainConfig, checkpoints, pretrain, read_checkpoint

data = load_data("digits").train.subset(torch.arange(320))
config = PretrainConfig(width=4, epochs=4, batch_size=32, precision="float32", device="cpu", strategy="AddNewPositive + DropFalseNegative(ratio=0.1)", log_every=3, checkpoint_minutes=0.0005, tracker="none")

def start(folder):
    if pid := os.fork(): return pid
    code = 1
    try:
        pretrain(config, data, LabelGuide(0.0), folder, progress=False)
        code = 0
    finally: os._exit(code)

def final(folder):
    facts, tensors = read_checkpoint(checkpoints(folder)[-1])
    assert facts["step"] == 40, facts["step"]
    return [{k: v for k, v in e.items() if k != "images_per_second"} for e in facts["history"]], tensors

accelerate.Accelerator(cpu=True), torch.optim.AdamW([torch.zeros(1)]) # what they import takes seconds: once, here
root = Path(sys.argv[1])
assert os.waitpid(start(root / "whole"), 0)[1] == 0
whole, killed_at, draw, left = final(root / "whole"), [], random.Random(0), 0

def reached(folder):
    return max((int(p.stem.split("-")[1]) for p in checkpoints(folder)), default=0) if folder.exists() else 0

for trial in range(30):
    folder, target = root / str(trial), draw.randrange(36)
    pid, until = start(folder), time.monotonic() + 60
    while reached(folder) < target and time.monotonic() < until: time.sleep(0.001)
    time.sleep(0.03 * draw.random())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    left += len(list(folder.glob(".*.part"))) if folder.exists() else 0
    steps = [int(p.stem.split("-")[1]) for p in checkpoints(folder)]
    assert os.waitpid(start(folder), 0)[1] == 0
    assert not list(folder.glob(".*.part"))
    history, tensors = final(folder)
    assert history == whole[0], (steps, history, whole[0])
    assert tensors.keys() == whole[1].keys() and all(torch.equal(tensors[k], v) for k, v in whole[1].items()), steps
    if not steps or steps[-1] < 40: killed_at.append(steps[-1] if steps else 0) # else it was done before the kill came
    if len(killed_at) == 10: break
print(json.dumps(dict(killed_at=killed_at, half_written=left)))
"""


def test_ten_kills(tmp_path):
    done = subprocess.run([sys.executable, "-c", RUNS, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed_at = json.loads(done.stdout)["killed_at"]
    assert len(killed_at) == 10 and len({k % 10 for k in killed_at if k}) > 2, killed_at # not only at the ends of epochs, of ten steps each
