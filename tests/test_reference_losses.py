"""Losses and gradients equal the reference values, written independently of this package, to 1e-12 in float64."""
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_help_simclr.losses import NTXent
from clip_help_simclr.resampling import AddNewPositive, DropEasyNegative, DropFalseNegative, DropFalsePositive, PairGraph, SimCLR

STRATEGIES = {
    "simclr": SimCLR(), "add_new_positive": AddNewPositive(), "drop_false_negative": DropFalseNegative(),
    "drop_easy_negative": DropEasyNegative(), "drop_false_positive_mean_over_kept": DropFalsePositive(),
}


@pytest.fixture(params=["a", "b"])
def reference(request):
    with np.load(Path(__file__).parent / "data" / f"reference_losses_{request.param}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.mark.parametrize("tile", [None, 1, 7, 64, 10_000])
@pytest.mark.parametrize("name", STRATEGIES)
def test_loss_and_gradient(reference, name, tile):
    z = reference["z"].requires_grad_()
    loss = NTXent(float(reference["tau"]), STRATEGIES[name], tile=tile)(z, reference["guide"])
    grad, = torch.autograd.grad(loss, z)
    expected = reference[f"grad_{name}"]
    assert abs(loss - reference[f"loss_{name}"]) <= 1e-12 * abs(reference[f"loss_{name}"])
    assert (grad - expected).norm() <= 1e-12 * expected.norm()


def test_kept_rows(reference):
    graph = DropFalsePositive()(PairGraph.from_views(len(reference["z"]), guide=reference["guide"]))
    assert torch.equal(graph.weights.sum(1) > 0, reference["kept_drop_false_positive"])
