"""Losses and strategies say what is wrong with what they are given: one error that names the argument."""
import math
import re

import numpy as np
import pytest
import torch

from clip_help_simclr.losses import DecoupledNTXent, InfoNCE, NTXent, SpectralContrastive
from clip_help_simclr.resampling import (
    AddNewPositive, Compose, DropEasyNegative, DropFalseNegative, DropFalsePositive, NearestOfOtherView, PairGraph, SameClass, SoftTargets, parse_strategy)

ONE, TWO = (NTXent, DecoupledNTXent, SpectralContrastive), (InfoNCE,)
TENSORS = {
    "None": None, "list": [[1.0, 2.0]] * 4, "numpy": np.ones((4, 2)), "number": 3, "text": "z", "one axis": torch.ones(4), "three axes": torch.ones(4, 2, 1), "integers": torch.ones(4, 2).long(),
    "booleans": torch.ones(4, 2).bool(), "complex": torch.ones(4, 2, dtype=torch.complex64), "sparse": torch.ones(4, 2).to_sparse(), "NaN": torch.full((4, 2), math.nan), "infinite": torch.full((4, 2), math.inf),
    "empty": torch.ones(0, 2)}
SETTINGS = dict(
    temperature=(0, -1, math.nan, math.inf, "a", None, True, [0.1], torch.ones(2), torch.tensor(-1.0), torch.ones((), requires_grad=True), torch.nn.Parameter(torch.tensor(0.1))),
    views=(0, 1, -2, True, "a", None, 2.5), tile=(0, -1, "a", 2.5, True), resample=("AddNewPositive", AddNewPositive, 3, [AddNewPositive()]), gather=(None, "a", 2))


def named(call, *names):
    with pytest.raises((ValueError, TypeError)) as found: call()
    assert re.search(rf"\b({'|'.join(names)})\b", str(found.value).split(":")[0]), found.value


def settings():
    for loss in (*ONE, *TWO):
        for name, values in SETTINGS.items():
            if (loss is SpectralContrastive and name == "temperature") or (loss is InfoNCE and name == "views"): continue
            for value in values: yield loss, name, value


@pytest.mark.parametrize("loss, name, value", list(settings()), ids=lambda v: str(v)[:24].replace("\n", " "))
def test_settings_of_losses(loss, name, value):
    named(lambda: loss(**{name: value}), name)


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("loss", ONE, ids=lambda loss: loss.__name__)
def test_embeddings(loss, kind):
    named(lambda: loss()(TENSORS[kind]), "z")


@pytest.mark.parametrize("kind", TENSORS)
def test_embeddings_of_two_towers(kind):
    good = torch.ones(4, 2)
    named(lambda: InfoNCE()(TENSORS[kind], good), "z_image", "z_text")
    named(lambda: InfoNCE()(good, TENSORS[kind]), "z_image", "z_text")
    if kind != "None": named(lambda: SpectralContrastive()(good, TENSORS[kind]), "z", "z_text", "z_image")


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("loss", ONE, ids=lambda loss: loss.__name__)
def test_guides(loss, kind):
    named(lambda: loss(resample=AddNewPositive())(torch.randn(4, 3), guide=TENSORS[kind]), "guide")


@pytest.mark.parametrize("strategy", [AddNewPositive(), DropFalsePositive(), DropFalseNegative(), DropEasyNegative(), SameClass(), SoftTargets(), NearestOfOtherView(), Compose(AddNewPositive())], ids=repr)
def test_a_missing_guide(strategy):
    named(lambda: NTXent(resample=strategy)(torch.randn(4, 3)), "guide")


def test_rows_that_do_not_fit():
    named(lambda: NTXent(views=3)(torch.randn(4, 3)), "z")
    named(lambda: NTXent(resample=AddNewPositive())(torch.randn(4, 3), torch.randn(3, 3)), "guide")
    named(lambda: InfoNCE()(torch.randn(4, 3), torch.randn(3, 3)), "z_text")
    named(lambda: DecoupledNTXent()(torch.randn(2, 3)), "z")


SHARES = (-0.1, 2, math.nan, "a", None, True, [0.1])
STRATEGIES = [(AddNewPositive, "weight", SHARES), (AddNewPositive, "rank", (0, -1, 1.5, "a", None, True)), (AddNewPositive, "pool", ("nowhere", None, 3)), (DropFalsePositive, "ratio", SHARES), (DropFalseNegative, "ratio", SHARES),
              (DropEasyNegative, "ratio", SHARES), (SameClass, "threshold", (1, -1, math.nan, "a", None, True)), (SoftTargets, "temperature", (0, -1, math.nan, math.inf, "a", None, True)), (SoftTargets, "keep", (0, -1, 1.5, "a", None, True))]


@pytest.mark.parametrize("strategy, name, value", [(s, name, value) for s, name, values in STRATEGIES for value in values], ids=lambda v: str(v)[:24])
def test_settings_of_strategies(strategy, name, value):
    named(lambda: strategy(**{name: value}), name)
    if isinstance(value, (int, float, str)) and value == value and value not in (math.inf,): named(lambda: parse_strategy(f"{strategy.__name__}({name}={value!r})"), name)


@pytest.mark.parametrize("text", [None, 3, ["SimCLR"], "", " ", "AddNewPositive(", "AddNewPositive(weight=x)", "AddNewPositive(weight=[1].pop())", "AddNewPositive(0.5)", "Nothing", "1 + 1", "AddNewPositive - SimCLR", "lambda: 0", "SimCLR()()"])
def test_strategies_by_name(text):
    named(lambda: parse_strategy(text), "strategy")


@pytest.mark.parametrize("arguments, name", [(dict(n="a"), "n"), (dict(n=None), "n"), (dict(n=True), "n"), (dict(n=4.0), "n"), (dict(n=0), "z"), (dict(n=5), "z"), (dict(n=4, views=0), "views"), (dict(n=4, views="a"), "views"),
                                             (dict(n=4, views=True), "views"), (dict(n=4, guide=[1]), "guide"), (dict(n=4, guide=np.eye(4)), "guide")])
def test_graphs(arguments, name):
    named(lambda: PairGraph.from_views(**arguments), name)


@pytest.mark.parametrize("loss", [NTXent(0.5), DecoupledNTXent(0.5)], ids=lambda loss: type(loss).__name__)
def test_a_temperature_that_is_set_acts(loss):
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    before = loss(z)
    loss.temperature = 0.2
    assert loss.temperature == 0.2 and loss(z) == type(loss)(0.2)(z) and loss(z) != before
    loss.temperature = torch.tensor(0.5)
    assert loss(z) == before
    for wrong in (0, "a", torch.ones((), requires_grad=True)): named(lambda: setattr(loss, "temperature", wrong), "temperature")
    two = InfoNCE(0.5)
    two.temperature = 0.2
    assert two(z, z.flip(0)) == InfoNCE(0.2)(z, z.flip(0))


@pytest.mark.parametrize("scale, wrong", [(1e20, True), (1e15, False)])
def test_long_rows(scale, wrong):
    "Finite values are not called NaN: they are used, or said to be too large."
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    if not wrong: return torch.testing.assert_close(NTXent()(scale * z), NTXent()(z))
    for call in (lambda: NTXent()(scale * z), lambda: NTXent(resample=AddNewPositive())(z, scale * z)):
        with pytest.raises(ValueError, match="^(z|guide): .*(too large|too long)"): call()


@pytest.mark.parametrize("scale", [1e10, 1e15])
def test_spectral_products_that_overflow(scale):
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="^z: has values up to .*too large for float32"): SpectralContrastive()(scale * z)
    assert SpectralContrastive()(1e8 * z).isfinite() and SpectralContrastive()(scale * z.double()).isfinite()


def test_short_guide_rows():
    "A row of 1e-14 points somewhere; one that is too short to tell is unknown."
    guide = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    short = guide.clone()
    short[1] *= 1e-14
    torch.testing.assert_close(PairGraph.from_views(8, guide=short).similarity.embedding, PairGraph.from_views(8, guide=guide).similarity.embedding)
    short[1] = guide[1] * 1e-30
    assert PairGraph.from_views(8, guide=short).unknown.nonzero()[:, 0].tolist() == [1, 5]
