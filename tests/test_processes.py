"""Each exchange between processes equals what one process computes from everything."""
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import SECONDS, spawn

from clip_help_simclr import processes
from clip_help_simclr.processes import Shares

if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch without gloo", allow_module_level=True)

SIZES = (3, 1, 4)


def work(rank, meeting):
    store = dist.FileStore(str(meeting), len(SIZES))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(SIZES), timeout=timedelta(seconds=SECONDS))
    assert (processes.rank(), processes.world_size()) == (rank, 3)
    values = torch.tensor([rank + 1.0, -rank])
    assert processes.summed(values).tolist() == [6, -3]
    assert processes.largest(values).tolist() == [3, 0]
    assert processes.smallest(values).tolist() == [1, -2]
    assert values.tolist() == [rank + 1.0, -rank]
    assert processes.gather_objects({"rank": rank}) == [{"rank": r} for r in range(3)]
    assert processes.gather_numbers([rank, 7], torch.device("cpu")) == [[0, 7], [1, 7], [2, 7]]

    shares, everything = Shares(SIZES, rank), torch.arange(2 * 8 * 5.0).view(2, 8, 5)
    mine = everything[:, shares.own].flatten(0, 1)
    assert torch.equal(shares.gather(mine, 2), everything.flatten(0, 1))
    assert torch.equal(processes.gather_rows(everything[0, shares.own]), everything[0])
    assert torch.equal(shares.own_sum(everything.flatten(0, 1) * (rank + 1), 2), 6 * mine)

    x = torch.tensor([float(rank)], requires_grad=True)
    processes.sum_with_gradient(x).square().backward()
    assert x.grad.tolist() == [3 * 2 * 3]  # each of three processes has (0 + 1 + 2)², whose slope is 6
    dist.barrier()
    processes.leave()
    os._exit(0)  # all is checked; the interpreter's own end has aborted once in a thread that gloo left behind


def test_exchanges(tmp_path):
    spawn(work, (tmp_path / "meeting",), len(SIZES))
