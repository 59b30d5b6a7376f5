"""Features encoded by several processes equal those of one: every image once, in order, in every process, whatever the sizes of the shares."""
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import SECONDS, spawn

from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.core import generator
from clip_help_simclr.data import TensorSet
from clip_help_simclr.encoders import build_encoder
from clip_help_simclr.evaluation import encode

if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch without gloo", allow_module_level=True)


def pictures(n):
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "pictures"))
    return TensorSet(name="pictures", classes=("one",), labels=torch.zeros(n, dtype=torch.int64), captions=[""] * n, caption_source="none", size=32, images=images)


def work(rank, processes, meeting):
    dist.init_process_group("gloo", store=dist.FileStore(str(meeting), processes), rank=rank, world_size=processes, timeout=timedelta(seconds=SECONDS))
    encoder = build_encoder("convnet", width=4)
    for n in (1, 37, 64):  # fewer images than processes, uneven shares, even ones
        data = pictures(n)
        alone = encode(encoder, data, batch_size=1000, gather=False)
        together = encode(encoder, data, batch_size=7)
        assert together.shape == alone.shape
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
        everywhere = [torch.empty_like(together) for _ in range(processes)]
        dist.all_gather(everywhere, together)
        for features in everywhere: assert torch.equal(features, together)
    views = SimCLRViews(32)
    whole = views(data.images, generator(0, "views")).unflatten(0, (2, -1))
    mine = slice(64 * rank // processes, 64 * (rank + 1) // processes)
    share = views(data.images[mine], generator(0, "views"), among=(mine.start, 64)).unflatten(0, (2, -1))
    torch.testing.assert_close(share, whole[:, mine], rtol=0, atol=1e-5)
    dist.barrier()
    dist.destroy_process_group()


def test_encode(tmp_path):
    spawn(work, (2, tmp_path / "meeting"), 2)
