"""Images about which a guide knows nothing keep their SimCLR rows: every strategy, against loops that follow the definitions in float64."""
import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import SECONDS, spawn

from clip_help_simclr.core import generator
from clip_help_simclr.losses import InfoNCE, NTXent
from clip_help_simclr.resampling import (
    AddNewPositive, Compose, DropEasyNegative, DropFalseNegative, DropFalsePositive, NearestOfOtherView, PairGraph, SameClass, SimCLR, SoftTargets)

N = 9
SILENT = [0, 4, 5]  # images without a caption
ALONE = 7  # an image whose caption shares no word with any other
STRATEGIES = [SimCLR(), AddNewPositive(0.3), AddNewPositive(0.3, rank=2), DropFalsePositive(0.4), DropFalseNegative(0.3), DropFalseNegative(0.8),
              DropEasyNegative(0.3), SameClass(0.5), SameClass(-0.5), SoftTargets(0.3), NearestOfOtherView()]


def guide_of(views, per_view, signed):
    "Rows of word counts (nonnegative, many zeros) or dense ones; zeros for the silent images."
    copies = views if per_view else 1
    if signed: rows = torch.randn(copies, N, 5, dtype=torch.float64, generator=generator(0, "signed"))
    else: rows = torch.randint(0, 3, (copies, N, 6), generator=generator(1, "words")).double() * (torch.rand(copies, N, 6, generator=generator(2, "words")) < 0.5)
    rows = torch.cat([rows, torch.zeros(copies, N, 1)], 2)
    rows[..., 0] += 0.5 * (not signed)  # every known image has a word
    rows[:, SILENT] = 0
    if not signed: rows[:, ALONE] = F.one_hot(torch.tensor(6), 7).double()
    return rows.flatten(0, 1)


def similarities(guide, views):
    unit = F.normalize(guide.repeat(views * N // len(guide), 1), dim=1)
    S = unit @ unit.T
    S[S.abs() < 4e-15] = 0  # the tolerance
    return S, (unit == 0).all(1)


def loop_graph(strategy, S, unknown, views, cross):
    "Positive weights and counted columns, a row at a time, as the docstrings of the strategies say."
    n = views * N
    image = torch.arange(n) % N
    weights, counted = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.bool)
    pairs = sorted(S[i, j].item() for i in range(n) for j in range(n) if i != j and image[i] == image[j] and not unknown[i] and not unknown[j])
    for i in range(n):
        columns = [j for j in range(n) if not cross or (i < N) != (j < N)]
        others = [j for j in columns if image[j] != image[i]]
        own = [j for j in columns if j != i and image[j] == image[i]]
        w = {j: 1 / len(own) for j in own}
        leaves = set()
        if isinstance(strategy, AddNewPositive):
            best = sorted(others, key=lambda j: (-round(S[i, j].item(), 12), j))[strategy.rank - 1]
            if S[i, best] != 0:
                w = {j: (1 - strategy.weight) * v for j, v in w.items()}
                w[best] = strategy.weight
        if isinstance(strategy, DropFalsePositive) and (k := int(strategy.ratio * len(pairs))):
            w = {j: v for j, v in w.items() if unknown[i] or unknown[j] or S[i, j] > pairs[k - 1] + 1e-12}
        if isinstance(strategy, (DropFalseNegative, DropEasyNegative)):
            k = int(strategy.ratio * len(columns))
            falling = sorted((S[i, j].item() for j in columns), reverse=True)
            if isinstance(strategy, DropFalseNegative): leaves = {j for j in columns if S[i, j] >= falling[k - 1] - 1e-12 and S[i, j] != 0}
            else: leaves = {j for j in columns if S[i, j] <= falling[-k] + 1e-12 and S[i, j] != 0}
        if isinstance(strategy, SameClass) and not unknown[i]:
            alike = [j for j in columns if j != i and S[i, j] > strategy.threshold and (S[i, j] != 0 or strategy.threshold >= 0)]
            w = {j: 1.0 for j in alike}
        if isinstance(strategy, SoftTargets) and not unknown[i]:
            known = [j for j in columns if j != i and not unknown[j]]
            w = {j: math.exp(S[i, j] / strategy.temperature) for j in known}
        if isinstance(strategy, NearestOfOtherView):
            other = (i + N) % n
            best = min((j for j in range(n) if image[j] != image[i]), key=lambda j: (-round(S[other, j].item(), 12), j))
            if S[other, best] != 0 or not unknown.any(): w = {best: 1.0}
        total = sum(w.values())
        for j, v in w.items(): weights[i, j] += v / total
        for j in columns: counted[i, j] = j != i and (j not in leaves or w.get(j, 0) > 0)
    return weights, counted


def loop_loss(z, weights, counted, temperature):
    unit = F.normalize(z, dim=1)
    s = unit @ unit.T / temperature
    kept = [i for i in range(len(z)) if weights[i].sum() > 0]
    rows = [s[i][counted[i]].logsumexp(0) - (weights[i] * s[i]).sum() for i in kept]
    return torch.stack(rows).mean()


def cases():
    for strategy in STRATEGIES:
        for views, cross in ((2, False), (3, False), (2, True)):
            for per_view in (True, False):
                for signed in (True, False):
                    if strategy.needs_per_view and not per_view: continue
                    if cross and isinstance(strategy, NearestOfOtherView): continue
                    yield pytest.param(strategy, views, cross, per_view, signed, id=f"{strategy!r}-{views}-{'two towers' if cross else 'one'}-{'views' if per_view else 'images'}-{'dense' if signed else 'words'}")


@pytest.mark.parametrize("strategy, views, cross, per_view, signed", list(cases()))
def test_graphs_and_losses_equal_loops(strategy, views, cross, per_view, signed):
    guide = guide_of(views, per_view, signed)
    S, unknown = similarities(guide, views)
    graph = strategy(PairGraph.from_views(views * N, views, guide, cross, dtype=torch.float64))
    expected = loop_graph(strategy, S, unknown, views, cross)
    weights, counted = graph.dense()
    torch.testing.assert_close(weights, expected[0], rtol=0, atol=1e-12)
    assert torch.equal(counted, expected[1])
    z = torch.randn(views * N, 4, dtype=torch.float64, generator=generator(3, "z")).requires_grad_()
    wanted = loop_loss(z, *expected, 0.2)
    gradient, = torch.autograd.grad(wanted, z)
    for tile in (None, 2, 5):
        loss = InfoNCE(0.2, strategy, tile) if cross else NTXent(0.2, strategy, views, tile)
        value = loss(*z.chunk(2), guide=guide) if cross else loss(z, guide)
        found, = torch.autograd.grad(value, z)
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != SimCLR()] + [Compose(AddNewPositive(), DropFalseNegative(0.3), DropEasyNegative(0.3))], ids=repr)
@pytest.mark.parametrize("per_view", [True, False])
def test_rows_without_knowledge_are_simclr_s(strategy, per_view):
    if strategy.needs_per_view and not per_view: pytest.skip("it needs a guide of views")
    base = PairGraph.from_views(2 * N, guide=guide_of(2, per_view, False), dtype=torch.float64)
    rows = base.unknown
    assert rows.nonzero()[:, 0].tolist() == SILENT + [i + N for i in SILENT]
    graph = strategy(base)
    weights, counted = graph.dense()
    assert torch.equal(weights[rows], base.dense()[0][rows])
    assert torch.equal(counted[rows], base.dense()[1][rows])
    incoming = weights.sum(0)
    assert incoming.max() < N  # no column gathers the rows that know nothing
    assert torch.equal(graph.unknown, rows)


def test_a_guide_that_knows_nothing_at_all_is_simclr():
    z = torch.randn(2 * N, 4, dtype=torch.float64, generator=generator(0))
    for strategy in STRATEGIES: assert NTXent(0.2, strategy)(z, torch.zeros(2 * N, 3)).item() == pytest.approx(NTXent(0.2)(z).item(), abs=1e-14)


def test_the_neighbour_of_the_data_set():
    "pool='dataset': the last view shows the neighbour, and counts as a positive only where the guide knows the image."
    guide = guide_of(1, False, True)
    graph = PairGraph.from_views(3 * N, 3, guide, dtype=torch.float64)
    edited = AddNewPositive(0.3, pool="dataset")(graph)
    rows = graph.unknown
    assert rows.any() and torch.equal(edited.dense()[0][rows], graph.dense()[0][rows])
    own, last = edited.dense()[0][1, 1 + N], edited.dense()[0][1, 1 + 2 * N]  # image 1 is known
    assert (own.item(), last.item()) == pytest.approx((0.7, 0.3))


def test_without_a_guide_nothing_is_unknown():
    assert not PairGraph.from_views(6).unknown.any()
    assert not PairGraph.from_views(6, guide=torch.ones(3, 2)).unknown.any()


def work(rank, sizes, meeting):
    dist.init_process_group("gloo", store=dist.FileStore(str(meeting), len(sizes)), rank=rank, world_size=len(sizes), timeout=timedelta(seconds=SECONDS))
    start = sum(sizes[:rank])
    mine = slice(start, start + sizes[rank])
    for strategy in STRATEGIES:
        for per_view in (True, False):
            if strategy.needs_per_view and not per_view: continue
            for signed in (True, False):
                guide = guide_of(2, per_view, signed)
                z = torch.randn(2, N, 4, dtype=torch.float64, generator=generator(4, "z"))
                whole = NTXent(0.2, strategy, gather=False)(z.flatten(0, 1), guide)
                part = NTXent(0.2, strategy)(z[:, mine].flatten(0, 1), guide.unflatten(0, (-1, N))[:, mine].flatten(0, 1))
                torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12, msg=lambda m: f"{strategy}: {m}")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch without gloo")
    spawn(work, ((5, 4), tmp_path / "meeting"), 2)


def test_the_audit_counts_positives_that_are_added():
    from clip_help_simclr.audit import added_positives
    rows = torch.rand(8, 4, generator=generator(5, "audit"))
    rows[3] = 0
    found = added_positives(rows, [torch.arange(8)])
    assert len(found) == 7 and 3 not in set(found.anchor) | set(found.partner)
    assert added_positives(torch.zeros(8, 4), [torch.arange(8)]).empty


def test_an_audit_names_images_that_the_guide_knows_nothing_about():
    from clip_help_simclr.audit import audit
    from clip_help_simclr.data import load_data
    from clip_help_simclr.guides import EmbeddingCache
    data = load_data("digits").train.subset(torch.arange(128))
    rows = torch.rand(128, 8, generator=generator(6, "audit"))
    rows[:5] = 0
    with pytest.warns(UserWarning, match="knows nothing about 5 of 128 images"): audit(data, EmbeddingCache(rows, "some", data.fingerprint), batch_size=32, kinds=8, pictures=4)
    with pytest.raises(ValueError, match="guide: says nothing that joins"): audit(data, EmbeddingCache(torch.zeros(128, 8), "none", data.fingerprint), batch_size=32, kinds=8, pictures=4)


def test_an_unknown_image_is_its_own_neighbour():
    "So that the last view of pool='dataset', which its SimCLR row keeps as a positive, shows the image itself."
    from clip_help_simclr.guides import EmbeddingCache
    from clip_help_simclr.training.guidance import nearest_images
    rows = torch.rand(12, 4, generator=generator(7, "neighbours"))
    rows[[2, 9]] = 0
    found = nearest_images(EmbeddingCache(rows, "some", ""), torch.device("cpu"), False)
    assert found[[2, 9]].tolist() == [2, 9]
    known = [i for i in range(12) if i not in (2, 9)]
    assert all(found[i] != i and found[i] in known for i in known)
