"""`chs embed`, killed and resumed, by one process and by two: always the same bytes."""
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from clip_help_simclr.cli import main
from clip_help_simclr.core import generator
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import CaptionGuide, EmbeddingCache

SHARDS = 41  # of 128 of the 5,188 images of digits


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    path = tmp_path_factory.mktemp("guide") / "guide.safetensors"
    CaptionGuide.train(load_data("digits").train, share=0.02, epochs=1, device="cpu", progress=False).save(path)
    return path


def arguments(guide, out):
    return ["embed", "--data", "digits", "--guide", f"captions:{guide}", "--out", str(out), "--shard_rows", "128", "--batch_size", "64", "--device", "cpu"]


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("rows-*"))}


@pytest.fixture(scope="module")
def whole(guide, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert main(arguments(guide, out)) == 0
    assert len(shards(out)) == SHARDS
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork spares each run the import of torch")
def test_killed_at_ten_moments(guide, whole, tmp_path):
    fork, chance = multiprocessing.get_context("fork"), random.Random(0)
    for trial in range(10):
        out, after = tmp_path / str(trial), chance.randrange(SHARDS)
        run = fork.Process(target=main, args=(arguments(guide, out),))
        run.start()
        while run.is_alive() and len(list(out.glob("rows-*"))) < after: time.sleep(0.001)
        time.sleep(0.02 * chance.random())
        os.kill(run.pid, signal.SIGKILL)
        run.join()
        found = shards(out)
        assert after <= len(found) < SHARDS or run.exitcode == 0
        assert found.items() <= shards(whole).items()
        rest = fork.Process(target=main, args=(arguments(guide, out),))
        rest.start()
        rest.join()
        assert rest.exitcode == 0 and shards(out) == shards(whole)
        assert not list(out.glob(".*")) and (out / "manifest.json").read_text() == (whole / "manifest.json").read_text()


def test_two_processes(guide, whole, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clip_help_simclr.cli"]
    done = subprocess.run([*launch, *arguments(guide, tmp_path / "two")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "rows of" in line or "my share" in line]) == 2  # each process said its word
    assert shards(tmp_path / "two") == shards(whole)
    assert (tmp_path / "two" / "manifest.json").read_text() == (whole / "manifest.json").read_text()


def test_the_rows_are_the_guide_s(guide, whole):
    cache, data = EmbeddingCache.load(whole), load_data("digits").train
    numbers = torch.randperm(len(data), generator=generator(0))[:64]
    rows = CaptionGuide.load(guide, device="cpu").embed(data.subset(numbers), progress=False)
    assert (cache[numbers] * rows).sum(1).min() > 0.999  # other batches, other rounding
