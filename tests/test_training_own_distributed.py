"""Two processes: clipped gradients and one's own augmentation are those of one process; an image that cannot be read, or a share without any, stops nobody."""
import json
import os
from datetime import timedelta
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from processes import SECONDS, spawn

from clip_help_simclr.core import generator
from clip_help_simclr.data import load_data
from clip_help_simclr.training import PretrainConfig, feeding, pretrain, read_checkpoint
from test_training_own import Pictures, all_three, leaving_out, noise

if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch without gloo", allow_module_level=True)

BASE = PretrainConfig(width=4, projection=8, epochs=2, batch_size=31, precision="float64", device="cpu", workers=0, tracker="none", log_every=3)
RUNS = dict(clipped=replace(BASE, clip_norm=0.05, optimizer="sgd", lr=0.1), own=replace(BASE, augment=all_three))
BROKEN = (0, 1, 2, 3, 9)


def train(name, folder):
    if name != "broken": return pretrain(RUNS[name], load_data("digits").train.subset(torch.arange(160)), folder=folder, progress=False)
    with patch.object(feeding, "batches", leaving_out): return pretrain(replace(BASE, batch_size=4), Pictures(noise(16, 3), broken=BROKEN), folder=folder, progress=False)


def work(rank, folder):
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "meeting"), 2), rank=rank, world_size=2, timeout=timedelta(seconds=SECONDS))
    for name in (*RUNS, "broken"): train(name, folder / name)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    spawn(work, (folder,), 2)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_are_as_one(together, name, tmp_path):
    train(name, tmp_path)
    (facts, found), (one, expected) = read_checkpoint(together / name), read_checkpoint(tmp_path)
    assert facts["step"] == 10 and found.keys() == expected.keys()
    for key, value in expected.items(): torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-8, msg=lambda m: f"{key}: {m}")
    if name == "clipped": assert [e["gradient_norm"] for e in facts["history"]] == pytest.approx([e["gradient_norm"] for e in one["history"]], rel=1e-8)


def test_broken_images_on_two_processes(together):
    "Of shares of two images some are empty; those steps are left out by both."
    facts, tensors = read_checkpoint(together / "broken")
    record = json.loads((together / "broken" / "record.json").read_text())["config"]
    assert facts["step"] == 8 and len(facts["history"]) == 2 and all(v.isfinite().all() for v in tensors.values() if v.is_floating_point())
    assert set(record["unreadable"]) == {str(n) for n in BROKEN}  # from both
    empty = 0
    for epoch in range(2):
        order = torch.randperm(16, generator=generator(0, "order", epoch))
        shares = [group.tensor_split(2) for group in order.split(4)]
        empty += sum(any(set(share.tolist()) <= set(BROKEN) for share in both) for both in shares)
    assert record["skipped_steps"] == empty > 0
