"""Bad arguments to the Python surface of data end in errors that name them."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clip_help_simclr import data as module
from clip_help_simclr.data import (
    Reading, ShapesWorld, TensorSet, captions_from_labels, decode, digits, hugging_face, image_folder, load_data, shapes,
    tar_shards, torchvision_set)

NAMED = (TypeError, ValueError)
NOT_COUNTS = [0, -1, 2.5, math.nan, math.inf, 10**30, "32", None, [32], True, np.zeros(3), torch.ones(2)]


def tensor_set(**changes):
    known = dict(name="five", classes=("a", "b"), labels=torch.tensor([0, 1, -1]), captions=["", "x", "y"],
                 caption_source="the author", size=4, images=torch.zeros(3, 3, 4, 4, dtype=torch.uint8))
    return TensorSet(**known | changes)


@pytest.mark.parametrize("changes, says", [
    (dict(labels=torch.tensor([0.0, 1.0, -1.0])),
     r"labels: torch.float32 of shape \(3,\). Expected int64.*labels.long"),
    (dict(labels=torch.tensor([True, False, True])), "labels: torch.bool"),
    (dict(labels=[0, 1, -1]), "labels: list"), (dict(labels=np.array([0, 1, -1])), "labels: ndarray"),
    (dict(labels=None), "labels: NoneType"), (dict(labels=torch.zeros(3, 1)), "labels"),
    (dict(labels=torch.zeros(3, 1, dtype=torch.int64)), "labels: torch.int64 of shape"),
    (dict(labels=torch.tensor([0, 2, -1])), "labels: values from -1 to 2 for 2 classes"),
    (dict(labels=torch.tensor([0, 1, -2])), "labels: values from -2"),
    (dict(labels=torch.tensor([math.nan] * 3)), "labels: torch.float32"),
    (dict(captions=["", "x"]), "captions: 2 for 3 labels"), (dict(captions="abc"), "captions: str"),
    (dict(captions=None), "captions: NoneType"),
    (dict(captions=["", None, "y"]), "captions: number 1 is None"),
    (dict(captions=["", 5, "y"]), "captions: number 1 is 5"),
    (dict(ids=["1"]), "ids: 1 for 3"), (dict(ids=[1, 2, 3]), "ids: number 0 is 1"),
    (dict(classes="ab"), "classes: 'ab'"), (dict(classes=(1, 2)), "classes"),
    (dict(images=torch.zeros(3, 3, 4, 4)), "images: torch.float32"),
    (dict(images=torch.zeros(3, 4, 4, 3, dtype=torch.uint8)), "images: torch.uint8 of shape"),
    (dict(images=np.zeros((3, 3, 4, 4), np.uint8)), "images: ndarray"),
    (dict(images=None), "images: NoneType"),
    (dict(channels=2), "channels: 2"), (dict(channels=None), "channels: None"),
    (dict(channels=True), "channels: True"), (dict(channels=4), "images: .*channels=3"),
    (dict(strict="no"), "strict: 'no'"),
])
def test_tensor_set(changes, says):
    with pytest.raises(NAMED, match=f"^{says}"): tensor_set(**changes)


def test_whole_labels_of_other_types():
    for dtype in (torch.int8, torch.int16, torch.int32):
        made = tensor_set(labels=torch.tensor([0, 1, -1], dtype=dtype))
        assert made.labels.dtype == torch.int64 and made.fingerprint == tensor_set().fingerprint
    assert tensor_set(captions=("", "x", "y")).captions == ["", "x", "y"]
    assert len(tensor_set(labels=torch.tensor([], dtype=torch.int64), captions=[],
                          images=torch.zeros(0, 3, 4, 4, dtype=torch.uint8))) == 0


@pytest.mark.parametrize("value", NOT_COUNTS)
def test_sizes(value):
    calls = [lambda: tensor_set(size=value), lambda: ShapesWorld(size=value), lambda: digits(size=value),
             lambda: image_folder("/", size=value), lambda: tar_shards("/", size=value),
             lambda: hugging_face("/", size=value)]
    if value is not None: calls += [lambda spec=spec: load_data(spec, size=value) for spec in ("digits",
            "shapes", "folder:/", "webdataset:/", "hf:/", "cifar10:/")]
    for call in calls:
        with pytest.raises(NAMED, match="^size: "): call()


@pytest.mark.parametrize("value", NOT_COUNTS[1:])
def test_counts_of_shapes(value):
    for name in ("n_train", "n_test"):
        with pytest.raises(NAMED, match=f"^{name}: "): shapes(**{name: value})
    with pytest.raises(NAMED, match="^n: "): ShapesWorld().data(value)
    if not (isinstance(value, int) and value == -1):
        with pytest.raises(NAMED, match="^first: "): ShapesWorld().data(1, first=value)
        with pytest.raises(NAMED, match="^seed: "): ShapesWorld(seed=value)
        with pytest.raises(NAMED, match="^seed: "): digits(seed=value)
    assert len(ShapesWorld(size=4).data(0)) == 0


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.5", None, [0.5], True, torch.ones(2)])
def test_shares_of_shapes(value):
    for name in ("caption_noise", "nuisance"):
        with pytest.raises(NAMED, match=f"^{name}: "): ShapesWorld(**{name: value})
    with pytest.raises(NAMED, match="^shape: "): ShapesWorld(named=dict(shape=value))
    with pytest.raises(NAMED, match="^redrawn shape: "):
        ShapesWorld(named=dict(shape=0.5)).augmentation(dict(shape=value))


def test_worlds():
    for value in (None, 3, ["shape"], "shape"):
        with pytest.raises(TypeError, match="^named: "): ShapesWorld(named=value)
    for value in (None, "big", ShapesWorld):
        with pytest.raises(TypeError, match="^world: "): shapes(world=value)
    for value in (None, "shade", 3):
        with pytest.raises(ValueError, match="^unknown factor of the shapes "): ShapesWorld(label=value)
    with pytest.raises(ValueError, match=r"^n: 1000000000 images of 2048 x 2048 need 11718750 GiB"):
        ShapesWorld(size=2048).data(10**9)
    with pytest.raises(ValueError, match="^size: 5188 images of 16384 x 16384 need"): digits(16_384)


@pytest.mark.parametrize("template", ["a photo", "{} {x}", "{x}", "{", "{0.a}", "{:d}", "{{}}", None, 5, ["{}"]])
def test_templates(template):
    with pytest.raises(NAMED, match="^template: "): captions_from_labels(tensor_set(), template)


def test_captions_from_labels():
    for value in (None, ["a"], torch.zeros(3)):
        with pytest.raises(TypeError, match="^data: "): captions_from_labels(value)
    assert captions_from_labels(tensor_set(classes=("{}", "owl")), "{}!").captions == ["a {}!", "an owl!", ""]


@pytest.mark.parametrize("options, says", [
    (dict(strict="no"), "strict: 'no'"), (dict(strict=None), "strict: None"),
    (dict(download="no"), "download: 'no'"), (dict(memory=-1), "memory: -1"),
    (dict(memory=math.nan), "memory: nan"), (dict(memory=None), "memory: None"),
    (dict(memory="1G"), "memory: '1G'"), (dict(workers=-1), "workers: -1"),
    (dict(workers=1.5), "workers: 1.5"), (dict(workers=10**9), "workers: 1000000000. Give at most"),
    (dict(channels=0), "channels: 0"), (dict(channels=2), "channels: 2"),
    (dict(channels="rgb"), "channels: 'rgb'"), (dict(channels=None), "channels: None"),
    (dict(channels=[3]), r"channels: \[3\]"),
    (dict(background="whiteish"), "background: 'whiteish'"), (dict(background=None), "background: None"),
    (dict(background=(0, 0, 0)), r"background: \(0"), (dict(background=""), "background: ''"),
])
@pytest.mark.parametrize("spec", ["digits", "folder:/", "webdataset:/", "hf:/", "cifar10:/"])
def test_load_data(spec, options, says):
    with pytest.raises(NAMED, match=f"^{says}"): load_data(spec, **options)


@pytest.mark.parametrize("spec", [None, 3, ["digits"], b"digits", "", "imagenet", "folder", "folder:",
                                  "digits:here", ":", "Digits"])
def test_specs(spec):
    with pytest.raises(NAMED, match="^(data: |unknown data set )"): load_data(spec)


@pytest.mark.parametrize("spec", ["folder:/nowhere", "folder:/no\0where", "webdataset:/nowhere/*.tar",
                                  "webdataset:/no\0where", "cifar10:/nowhere", "stl10:/nowhere",
                                  "folder:" + "x" * 5000])
def test_nowhere(spec):
    with pytest.raises((FileNotFoundError, ValueError), match="^data: "): load_data(spec)


@pytest.mark.parametrize("value", [None, 3, ["/"], b"/"])
def test_paths(value):
    for name, call in (("path", image_folder), ("pattern", tar_shards), ("path", hugging_face),
                       ("root", lambda root: torchvision_set("cifar10", root))):
        with pytest.raises(TypeError, match=f"^{name}: "): call(value)


def test_every_public_name_is_covered():
    "What is new must be looked at here."
    assert set(module.__all__) == {
        "Sample", "Batch", "ImageSet", "TensorSet", "Splits", "captions_from_labels", "Reading", "source_forms",
        "ShapesJoint", "ShapesWorld", "shapes", "digits", "EncodedSet", "decode", "FileSet", "image_folder",
        "torchvision_set", "TarSet", "tar_shards", "HuggingFaceSet", "hugging_face", "load_data", "batches"}


def test_public_names_are_explained():
    for name in module.__all__:
        thing = getattr(module, name)
        assert thing.__doc__ and thing.__module__.startswith("clip_help_simclr.data."), name


@pytest.mark.parametrize("options, says", [
    (dict(size=0), "size: 0"), (dict(size="32"), "size: '32'"), (dict(seed=0.5), "seed: 0.5"), (dict(seed=2**63), "seed: "),
    (dict(download=1), "download: 1"), (dict(strict=None), "strict: None"), (dict(memory="1G"), "memory: '1G'"),
    (dict(workers=-1), "workers: -1"), (dict(channels=2), "channels: 2"), (dict(background=None), "background: None"),
])
def test_reading(options, says):
    with pytest.raises(NAMED, match=f"^{says}"): Reading(**options)


def test_decode_of_what_is_no_picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify image file"): decode(tmp_path / "a.jpg", 4)
    with pytest.raises(FileNotFoundError): decode(tmp_path / "b.jpg", 4)


def test_replace_checks_again():
    with pytest.raises(ValueError, match="^size: 0"): replace(tensor_set(), size=0)
