"""A run that is killed at any moment and called again ends with the weights, the optimizer state and the history of a run that was left alone, to the bit."""
import random
import subprocess
import sys
import time

import torch
from processes import completed, kill, started, wait_until

from clip_help_simclr.training import checkpoints, read_checkpoint

KILLS, STEPS = 10, 80  # epochs are of ten steps

RUN = """
import sys, torch
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import LabelGuide
from clip_help_simclr.training import PretrainConfig, pretrain

config = PretrainConfig(width=4, epochs=8, batch_size=32, precision="float32", device="cpu", strategy="AddNewPositive + DropFalseNegative(ratio=0.1)",
                        log_every=3, checkpoint_minutes=0.0005, tracker="none")
pretrain(config, load_data("digits").train.subset(torch.arange(320)), LabelGuide(0.0), sys.argv[1], progress=False)
"""


def final(folder):
    "History (but for its clock) and tensors of a finished run."
    facts, tensors = read_checkpoint(checkpoints(folder)[-1])
    assert facts["step"] == STEPS
    return [{k: v for k, v in epoch.items() if k != "images_per_second"} for epoch in facts["history"]], tensors


def reached(folder):
    return max((int(path.stem.split("-")[1]) for path in checkpoints(folder)), default=0)


def test_ten_kills(tmp_path):
    "One run in eleven processes, of which ten are killed: each goes on from what the one before left."
    def command(folder): return [sys.executable, "-c", RUN, str(folder)]
    undisturbed = completed(command(tmp_path / "whole"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected, folder, killed_at, draw = final(tmp_path / "whole"), tmp_path / "killed", [], random.Random(0)
    for trial in range(KILLS):
        target = reached(folder) + draw.randrange(1, 8)
        with started(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            wait_until(lambda: reached(folder) >= target, run)
            time.sleep(0.03 * draw.random())
            kill(run)
        killed_at.append(reached(folder))
    assert killed_at[0] > 0 and killed_at[-1] < STEPS and len(set(killed_at)) == KILLS, killed_at
    assert len({step % 10 for step in killed_at}) > 2, killed_at  # not only at the ends of epochs
    rest = completed(command(folder))
    assert rest.returncode == 0, rest.stderr
    assert not list(folder.glob(".*"))
    history, tensors = final(folder)
    assert history == expected[0], killed_at
    assert tensors.keys() == expected[1].keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected[1].items()), killed_at
