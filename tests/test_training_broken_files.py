"""A folder with broken files, streamed: what the loader leaves out, the run goes on without."""
import json

import pytest
import torch
from PIL import Image

from clip_help_simclr.data import FileSet, image_folder
from clip_help_simclr.guides import EmbeddingCache
from clip_help_simclr.training import PretrainConfig, pretrain

BROKEN = ("a/3.png", "b/7.png")


class Rows:
    "A guide whose rows are drawn by number."
    name, per_view = "random rows", False
    def embed(self, data, batch_size=256, progress=True): return torch.randn(len(data), 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    noise = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(20): Image.fromarray(torch.randint(256, (36, 36, 3), generator=noise, dtype=torch.uint8).numpy()).save(tmp_path / name / f"{i}.png")
    for name in BROKEN: (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:300])
    return tmp_path


@pytest.mark.parametrize("strategy, views", [("SimCLR", 2), ("AddNewPositive", 2), ("AddNewPositive(pool='dataset')", 3)])
@pytest.mark.parametrize("batch_size", [8, 2])
def test_it_goes_on(folder, tmp_path_factory, strategy, views, batch_size):
    data = image_folder(folder, size=32, memory=0, progress=False).train
    assert isinstance(data, FileSet)
    guide = None if strategy == "SimCLR" else EmbeddingCache.build(Rows(), data, progress=False)
    config = PretrainConfig(width=4, batch_size=batch_size, epochs=2, views=views, strategy=strategy, device="cpu", precision="float32", workers=0, checkpoint_minutes=0, tracker="none")
    out = tmp_path_factory.mktemp("run")
    with pytest.warns(UserWarning, match="cannot be read"): result = pretrain(config, data, guide, out, progress=False)
    assert len(result.history) == 2 and all(v.isfinite().all() for v in result.model.state_dict().values())
    record = json.loads((out / "record.json").read_text())["config"]
    here = [name for name in BROKEN if any(i.endswith(name) for i in data.ids)]
    assert record["unreadable_images"] == len(here) > 0


def test_strict(folder):
    data = image_folder(folder, size=32, memory=0, progress=False, strict=True).train
    config = PretrainConfig(width=4, batch_size=8, epochs=1, device="cpu", workers=0, tracker="none")
    with pytest.raises(ValueError, match="cannot read|cannot be read"): pretrain(config, data, progress=False)
