"""`chs embed`, killed and resumed, by one process and by two: always the same bytes."""
import random
import subprocess
import sys
import time

import pytest
import torch
from processes import chs, completed, kill, started, wait_until

from clip_help_simclr.cli import main
from clip_help_simclr.core import generator
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import CaptionGuide, EmbeddingCache

SHARDS = 41  # of 128 of the 5,188 images of digits
KILLS = 10


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    path = tmp_path_factory.mktemp("guide") / "guide.safetensors"
    CaptionGuide.train(load_data("digits").train, share=0.02, epochs=1, device="cpu", progress=False).save(path)
    return path


def arguments(guide, out):
    sizes = ["--shard_rows", "128", "--batch_size", "64"]
    return ["embed", "--data", "digits", "--guide", f"captions:{guide}", "--out", str(out), *sizes, "--device", "cpu"]


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("rows-*"))}


@pytest.fixture(scope="module")
def whole(guide, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert main(arguments(guide, out)) == 0
    assert len(shards(out)) == SHARDS
    return out


def test_killed_at_ten_moments(guide, whole, tmp_path):
    "One cache, made by eleven calls of which ten are killed: each goes on from what the one before left."
    out, expected, chance = tmp_path / "out", shards(whole), random.Random(0)
    command, moments = chs(*arguments(guide, out)), sorted(chance.sample(range(SHARDS), KILLS))
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for shard in moments:
        with started(command, **silent) as run:
            wait_until(lambda: len(list(out.glob("rows-*"))) > shard or len(list(out.glob(f".rows-{shard:05d}*"))), run)
            time.sleep(0.02 * chance.random())
            assert run.poll() is None, "it ended before it was killed"
            kill(run)
        found = shards(out)
        assert shard <= len(found) < SHARDS
        assert found.items() <= expected.items()
    rest = completed(command)
    assert rest.returncode == 0, rest.stderr
    assert shards(out) == expected
    assert not list(out.glob(".*"))
    assert (out / "manifest.json").read_text() == (whole / "manifest.json").read_text()


def test_two_processes(guide, whole, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clip_help_simclr.cli"]
    done = completed([*launch, *arguments(guide, tmp_path / "two")])
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "rows of" in line or "my share" in line]) == 2  # each process said its word
    assert shards(tmp_path / "two") == shards(whole)
    assert (tmp_path / "two" / "manifest.json").read_text() == (whole / "manifest.json").read_text()


def test_the_rows_are_the_guide_s(guide, whole):
    cache, data = EmbeddingCache.load(whole), load_data("digits").train
    numbers = torch.randperm(len(data), generator=generator(0))[:64]
    rows = CaptionGuide.load(guide, device="cpu").embed(data.subset(numbers), progress=False)
    assert (cache[numbers] * rows).sum(1).min() > 0.999  # other batches, other rounding
