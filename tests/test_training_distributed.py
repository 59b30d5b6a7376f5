"""Training on two processes is training on one with the same batches; a process that dies ends the run."""
import os
import sys
from dataclasses import replace
from datetime import timedelta
from unittest.mock import patch

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from processes import SECONDS, completed, spawn
from torch import nn

from clip_help_simclr.core import load_record
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import LabelGuide
from clip_help_simclr.training import PretrainConfig, SelfGuide, build_model, checkpoints, pretrain, read_checkpoint

if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch without gloo", allow_module_level=True)

BASE = PretrainConfig(width=4, projection=16, epochs=2, batch_size=31, precision="float64", device="cpu", workers=0, tracker="none", log_every=3)
RUNS = dict( # 31 images per batch: the processes' shares differ
    simclr=BASE,
    guided=replace(BASE, strategy="AddNewPositive + DropFalseNegative(ratio=0.1)", optimizer="sgd", lr=0.1, views=3),
    neighbours=replace(BASE, strategy="AddNewPositive(pool='dataset')", views=3),
    chunks=replace(BASE, strategy="AddNewPositive", chunk=11),
    own=replace(BASE, strategy="NearestOfOtherView", loss="decoupled"),
)


def data(): return load_data("digits").train.subset(torch.arange(320))


def layer_norms(module):
    "The same network without batch statistics, for which chunks are exact."
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d): setattr(module, name, nn.GroupNorm(2, child.num_features))
        else: setattr(module, name, nn.LayerNorm(child.num_features) if isinstance(child, nn.BatchNorm1d) else layer_norms(child))
    return module


def train(name, config, folder):
    build = (lambda *args: layer_norms(build_model(*args))) if name == "chunks" else build_model
    with patch("clip_help_simclr.training.engine.build_model", build): return pretrain(config, data(), SelfGuide() if name == "own" else LabelGuide(0.0), folder, progress=False)


def work(rank, folder):
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "meeting"), 2), rank=rank, world_size=2, timeout=timedelta(seconds=SECONDS))
    for name, config in RUNS.items(): train(name, config, folder / name)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    spawn(work, (folder,), 2)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_are_as_one(together, name, tmp_path):
    alone = train(name, replace(RUNS[name], chunk=None), tmp_path)
    (facts, found), (_, expected) = read_checkpoint(together / name), read_checkpoint(tmp_path)
    assert facts["step"] == 20 and found.keys() == expected.keys()
    for key, value in expected.items(): torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-8, msg=lambda m: f"{key}: {m}")
    assert [e["loss"] for e in facts["history"]] == pytest.approx([e["loss"] for e in alone.history], rel=1e-10)
    assert [e["knn"] for e in facts["history"]] == [e["knn"] for e in alone.history]


def test_one_record(together):
    for name, config in RUNS.items():
        record = load_record(together / name / "record.json")
        assert record["config"]["processes"] == 2 and len(record["results"]) == config.epochs
        assert len(pd.read_csv(together / name / "metrics.csv")) == config.epochs
        assert len(checkpoints(together / name)) == 1


LAUNCHED = """
import os, signal, sys, torch
from clip_help_simclr import training
from clip_help_simclr.data import load_data
step = training.Run.train_step
def dies(run, batch):
    if run.step == 5 and run.share[0] == 1 and sys.argv[2] != "live":
        if sys.argv[2] == "killed": os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("this process has had enough")
    step(run, batch)
training.Run.train_step = dies
config = training.PretrainConfig(width=4, epochs=1, batch_size=32, precision="float32", device="cpu", tracker="none", checkpoint_minutes=0)
training.pretrain(config, load_data("digits").train.subset(torch.arange(320)), folder=sys.argv[1])
"""


def launch(folder, how):
    (folder / "train.py").write_text(LAUNCHED)
    free_port = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *free_port, str(folder / "train.py"), str(folder / "run"), how]
    done = completed(command)
    return done, [int(path.stem.split("-")[1]) for path in checkpoints(folder / "run")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done, steps = launch(folder, "live")
    assert done.returncode == 0, done.stderr
    assert steps == [9, 10] and done.stderr.count("SimCLR:   0%") == 1 # one bar
    return read_checkpoint(folder / "run")[1]


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_a_dying_process_ends_the_run(how, undisturbed, tmp_path):
    done, steps = launch(tmp_path, how)
    assert done.returncode != 0
    assert ("Signal 9" if how == "killed" else "this process has had enough") in done.stderr
    assert steps == [4, 5]
    if how == "failed": return
    again, steps = launch(tmp_path, "live")
    assert again.returncode == 0 and steps[-1] == 10, again.stderr
    tensors = read_checkpoint(tmp_path / "run")[1]
    assert all(torch.equal(tensors[key], value) for key, value in undisturbed.items())
