"""Encoders that users register: built, normalized, seeded, loaded and refused like the library's own."""
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from clip_help_simclr.core import entries, generator, register, save_tensors
from clip_help_simclr.encoders import Encoder, build_encoder

IMAGES = torch.rand(3, 3, 16, 16, generator=generator(0, "images"))


@pytest.fixture(autouse=True)
def own_table():
    "What a test registers is forgotten after it."
    with patch.dict("clip_help_simclr.core.registry._TABLES", encoder=dict(entries("encoder"))): yield


def pixels(image_size, width, channels):
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size ** 2, width))
    network.num_features = width
    return network


def test_like_the_librarys_own():
    register("encoder", "pixels-linear")(pixels)
    encoder = build_encoder("pixels-linear", image_size=16, width=5, seed=3)
    assert type(encoder) is Encoder and encoder.num_features == 5
    again, other = [build_encoder("pixels-linear", image_size=16, width=5, seed=seed) for seed in (3, 4)]
    assert torch.equal(encoder(IMAGES), again(IMAGES)) and not torch.equal(encoder(IMAGES), other(IMAGES))
    normalized = (IMAGES - encoder.mean) / encoder.std
    linear = encoder.backbone[1]
    torch.testing.assert_close(encoder(IMAGES), normalized.flatten(1) @ linear.weight.T + linear.bias)
    for channels in (1, 4):
        grown = build_encoder("pixels-linear", image_size=16, width=5, channels=channels)
        assert grown(torch.rand(2, channels, 16, 16)).shape == (2, 5)


def test_it_draws_nothing_from_others():
    register("encoder")(pixels)
    before = torch.get_rng_state()
    build_encoder("pixels")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_table_comes_before_timm():
    def small(image_size, width, channels): return pixels(image_size, width, channels)
    register("encoder", "resnet18")(small)
    assert isinstance(build_encoder("resnet18", image_size=8, width=3).backbone[1], nn.Linear)


def test_own_weights(tmp_path):
    register("encoder")(pixels)
    trained = build_encoder("pixels", image_size=16, width=5, seed=1)
    save_tensors(tmp_path / "model.safetensors", dict(trained.backbone.state_dict()))
    assert torch.equal(build_encoder("pixels", 16, 5, pretrained=str(tmp_path))(IMAGES), trained(IMAGES))
    with pytest.raises(ValueError, match="^pretrained: the weights in .* do not fit 'pixels': 1.weight is"):
        build_encoder("pixels", 16, 6, pretrained=str(tmp_path))
    with pytest.raises(ValueError, match="^pretrained: timm has no weights for pixels. Give a model of timm"):
        build_encoder("pixels", 16, 5, pretrained="timm")


def test_messages_list_it():
    register("encoder")(pixels)
    says = "^encoder: unknown encoder 'pixel'. Did you mean 'pixels'.* Valid: convnet, pixels, and every name in timm"
    with pytest.raises(ValueError, match=says):
        build_encoder("pixel")
    with pytest.raises(ValueError, match="^encoder: expected convnet, pixels or the name of a timm model, got 3"):
        build_encoder(3)


def nameless(num_features=None):
    network = nn.Flatten()
    if num_features is not None: network.num_features = num_features
    return network


WIDTHS = [None, "8", 8.0, torch.tensor(8), 0, -8, True]


@pytest.mark.parametrize("returned", [None, 3, torch.zeros, (nn.Flatten(), 8), *[nameless(width) for width in WIDTHS]])
def test_networks_that_do_not_say_their_width(returned):
    def mine(image_size, width, channels): return returned
    register("encoder")(mine)
    with pytest.raises(ValueError, match="^encoder: 'mine' returned .* with num_features .*Return an nn.Module"):
        build_encoder("mine")


def test_numpy_widths_are_whole_numbers():
    def mine(image_size, width, channels): return nameless(np.int64(8))
    register("encoder")(mine)
    assert type(build_encoder("mine").num_features) is int
