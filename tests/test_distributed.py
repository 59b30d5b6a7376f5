"""Losses over the batches of several processes equal those of one process with the union batch: loss, and parameter gradients under DistributedDataParallel."""
import itertools
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import SECONDS, spawn
from torch.nn.parallel import DistributedDataParallel

from clip_help_simclr.losses import DecoupledNTXent, InfoNCE, NTXent, SpectralContrastive
from clip_help_simclr.resampling import AddNewPositive, Compose, DropEasyNegative, DropFalseNegative, DropFalsePositive, NearestOfOtherView, SameClass, SoftTargets

if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch without gloo", allow_module_level=True)

SIZES = {2: (3, 2), 3: (4, 1, 3), 4: (2, 3, 1, 2)}  # images of each process: the last batch of an epoch is uneven
STRATEGIES = [None, AddNewPositive(), AddNewPositive(rank=2), DropFalsePositive(0.3), DropFalseNegative(0.3), DropEasyNegative(0.3),
              Compose(AddNewPositive(0.3), DropFalsePositive(0.3), DropFalseNegative(0.2), DropEasyNegative(0.2)),
              SameClass(), SoftTargets(0.3), NearestOfOtherView()]


def losses(strategy, views, tile, gather):
    "Functions of (embeddings, guide) for each loss; those of two towers split their rows."
    yield NTXent(0.2, strategy, views, tile, gather)
    yield DecoupledNTXent(0.2, strategy, views, tile, gather)
    yield SpectralContrastive(strategy, views, tile, gather)
    if views == 2 and not isinstance(strategy, NearestOfOtherView):
        info, spectral = InfoNCE(0.2, strategy, tile, gather), SpectralContrastive(strategy, 2, tile, gather)
        yield lambda z, *, guide: info(*z.chunk(2), guide=guide)
        yield lambda z, *, guide: spectral(*z.chunk(2), guide=guide)


def cases():
    for strategy, views, tile, per_view in itertools.product(STRATEGIES, (2, 3), (None, 2), (True, False)):
        if per_view or strategy is None or not strategy.needs_per_view: yield strategy, views, tile, per_view


def value_and_gradients(loss, model, x, guide):
    model.zero_grad()
    value = loss(model(x), guide=guide)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters())]


def work(rank, sizes, meeting):
    dist.init_process_group("gloo", store=dist.FileStore(str(meeting), len(sizes)), rank=rank, world_size=len(sizes), timeout=timedelta(seconds=SECONDS))
    images, stream = sum(sizes), torch.Generator().manual_seed(0)
    mine = slice(sum(sizes[:rank]), sum(sizes[:rank + 1]))
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=stream)
    encoder = torch.nn.Linear(5, 4).double()
    with torch.no_grad():
        for p in encoder.parameters(): p.copy_(draw(*p.shape))
    model = DistributedDataParallel(encoder)
    for strategy, views, tile, per_view in cases():
        x, guide = draw(views, images, 5), draw(views if per_view else 1, images, 3)
        x_mine, guide_mine, x_all, guide_all = (t[:, part].flatten(0, 1) for part, t in itertools.product((mine, slice(None)), (x, guide)))
        alone = losses(strategy, views, tile, gather=False)
        for together, single in zip(losses(strategy, views, tile, gather=True), alone):
            found = value_and_gradients(together, model, x_mine, guide_mine)
            expected = value_and_gradients(single, encoder, x_all, guide_all)
            for a, b in zip(found, expected): torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m: f"{strategy}, {views} views, tile {tile}, {together}: {m}")
    for bad, says in [(lambda: NTXent()(draw(4, 3) / (0 if rank == 0 else 1)), "NaN or infinite values in process 0"), (lambda: NTXent()(draw(4, 3 + rank)), "processes differ")]:
        with pytest.raises(ValueError, match=says): bad()
    del model
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # all is checked; the interpreter's own end has aborted once in a thread that gloo left behind


@pytest.mark.parametrize("processes", SIZES)
def test_union_batch(processes, tmp_path):
    spawn(work, (SIZES[processes], tmp_path / "meeting"), processes)
