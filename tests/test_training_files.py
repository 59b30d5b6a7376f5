"""A run whose images stream from files is the run from memory: neighbours come with the batch, from the processes that decode, and an interrupted run resumes exactly."""
import multiprocessing
from dataclasses import fields
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from clip_help_simclr.data import FileSet, TensorSet, image_folder
from clip_help_simclr.guides import EmbeddingCache
from clip_help_simclr.training import PretrainConfig, Run, checkpoints, pretrain

CONFIG = PretrainConfig(width=4, batch_size=8, epochs=2, views=3, strategy="AddNewPositive(pool='dataset')", device="cpu", precision="float32", workers=1, checkpoint_minutes=0, tracker="none")


class Rows:
    "A guide whose rows are drawn by number."
    name, per_view = "random rows", False
    def embed(self, data, batch_size=256, progress=True): return torch.randn(len(data), 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    noise = torch.Generator().manual_seed(0)
    for i in range(40): Image.fromarray(torch.randint(256, (36, 36, 3), generator=noise, dtype=torch.uint8).numpy()).save(tmp_path / f"{i}.png")
    return tmp_path


class Elsewhere(FileSet):
    "Images that only the loader's processes may decode."
    def read(self, numbers):
        assert multiprocessing.parent_process(), "decoded in the main process"
        return super().read(numbers)


def test_streamed_neighbours(folder, tmp_path_factory):
    held, streamed = (image_folder(folder, size=32, memory=memory, progress=False).train for memory in (2**30, 0))
    assert (type(held), type(streamed)) == (TensorSet, FileSet)
    streamed = Elsewhere(**{field.name: getattr(streamed, field.name) for field in fields(streamed)})
    def run(data, folder=None): return pretrain(CONFIG, data, EmbeddingCache.build(Rows(), data, progress=False), folder, progress=False).model.state_dict()
    expected, kept = run(held), tmp_path_factory.mktemp("run")
    step = Run.train_step
    def interrupted(run, batch):
        step(run, batch)
        if run.step == 2: raise KeyboardInterrupt
    assert all(torch.equal(v, expected[k]) for k, v in run(streamed).items())
    with patch.object(Run, "train_step", interrupted), pytest.raises(KeyboardInterrupt): run(streamed, kept)
    assert [path.name for path in checkpoints(kept)] == ["checkpoint-1.safetensors"]
    assert all(torch.equal(v, expected[k]) for k, v in run(streamed, kept).items())
