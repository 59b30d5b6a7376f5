"""Views of every type of pixel and number of channels; probes of unequal classes and unreadable images; and what both say to wrong input."""
import inspect
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from clip_help_simclr import evaluation
from clip_help_simclr.augment import SimCLRViews, adjust_brightness, adjust_contrast, adjust_hue, render_views, resize
from clip_help_simclr.core import generator
from clip_help_simclr.data import image_folder, load_data
from clip_help_simclr.encoders import build_encoder
from clip_help_simclr.evaluation import encode, few_shot_probe, knn_accuracy, linear_probe, mean_per_class, sgd_probe, usable_labels

PIXELS = dict(grey=(0.5, 0.5, 0.5), black=(0, 0, 0), white=(1, 1, 1), red=(1, 0, 0), cyan=(0, 1, 1), almost_grey=(0.5, 0.5, 0.5005), random=None)


def pictures(kind, channels=3, size=20):
    if PIXELS.get(kind) is None: return torch.rand(6, channels, size, size, generator=generator(0, "pictures"))
    return torch.tensor(PIXELS[kind]).float().view(1, 3, 1, 1).expand(6, 3, size, size).contiguous()


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("dtype, close", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.float64, 1e-5), (torch.uint8, 3e-2)], ids=str)
def test_views_of_every_type_are_those_of_float32(kind, dtype, close):
    images = pictures(kind)
    given = (images * 255).round().to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)
    views = SimCLRViews(16, jitter=1.0, strength=1.0, gray=0.3, blur=0.5)
    expected, found = views(images, generator(1)), views(given, generator(1))
    assert found.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert found.isfinite().all()
    assert 0 <= found.min() and found.max() <= 1
    hues = given.float() if dtype != torch.uint8 else given / 255  # where channels nearly tie, rounding the input turns its hue
    torch.testing.assert_close(found.float(), views(hues.float(), generator(1)), rtol=0, atol=close)
    if kind != "almost_grey": assert (found.float() - expected).abs().mean() < close


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["grey", "black", "white"])
def test_grey_has_no_hue(kind, dtype):
    images = pictures(kind).to(dtype)
    assert torch.equal(adjust_hue(images, torch.full((6,), 0.3, dtype=dtype)), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16], ids=str)
def test_one_channel(dtype):
    "The views of a grey image: those of its three equal channels, as far as grey has them."
    grey = pictures("random", 1)
    if dtype == torch.uint8: grey = (grey * 255).to(torch.uint8)
    grey = grey.to(dtype)
    views = SimCLRViews(16, jitter=1.0, strength=1.0, gray=0.5, blur=0.5)
    found, three = views(grey, generator(2)), views(grey.expand(-1, 3, -1, -1), generator(2))
    assert found.shape == (12, 1, 16, 16)
    torch.testing.assert_close(found.float(), three[:, :1].float(), rtol=0, atol=2e-3)  # the grey weights sum to 0.9999


def test_one_channel_has_brightness_and_contrast():
    grey = pictures("random", 1)
    p = SimCLRViews(20).parameters(6, 20, 20, generator(0))
    p.box[:] = torch.tensor([0, 0, 20, 20])
    p.flip[:], p.jitter[:], p.gray[:], p.sigma[:] = False, True, True, 0
    p.order[:] = torch.tensor([0, 1, 2, 3])
    three = grey.expand(-1, 3, -1, -1)
    expected = adjust_contrast(adjust_brightness(three, p.factors[:, 0]), p.factors[:, 1])[:, :1]
    torch.testing.assert_close(render_views(grey, p, 20), expected, rtol=0, atol=1e-3)


def test_four_channels():
    "Three colours as ever, and a fourth channel that is cropped, mirrored and blurred with them."
    images = pictures("random", 4)
    views = SimCLRViews(16, jitter=0.8, strength=1.0, gray=0.5, blur=0.5)
    found = views(images, generator(3))
    torch.testing.assert_close(found[:, :3], views(images[:, :3], generator(3)))
    plain = SimCLRViews(16, jitter=0.0, gray=0.0, blur=0.5)
    p = views.parameters(12, 20, 20, generator(3))
    p.jitter[:], p.gray[:] = False, False
    torch.testing.assert_close(found[:, 3:], render_views(images[:, 3:].expand(-1, 3, -1, -1), p, 16)[:, :1])
    assert plain(images, generator(3)).shape == (12, 4, 16, 16)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resize_takes_as_many_channels(channels):
    assert resize(pictures("random", channels), 7).shape == (6, channels, 7, 7)


FIELDS = dict(size=(0, -1, 2.5, "a", None, True, 10 ** 9), crop_scale=(0, (0.5,), (0.5, 0.1), (0, 1), (0.5, 2), ("a", 1), None, (math.nan, 1)),
              flip=(2, -0.1, math.nan, "a", None, True), jitter=(2, math.inf, "a", None), strength=(9, -1, "a"), gray=(2, "a", None), blur=(2, -1, "a", math.nan))


@pytest.mark.parametrize("name, value", [(name, value) for name, values in FIELDS.items() for value in values], ids=str)
def test_wrong_settings_of_views(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "): SimCLRViews(**{name: value})


@pytest.mark.parametrize("images", [None, [1], np.zeros((2, 3, 8, 8), np.uint8), torch.zeros(3, 8, 8), torch.zeros(2, 2, 8, 8), torch.zeros(2, 3, 8, 8).long(),
                                    torch.zeros(2, 3, 0, 8), torch.full((2, 3, 8, 8), math.nan), torch.full((2, 3, 8, 8), 7.0), torch.zeros(2, 3, 8, 8, dtype=torch.complex64)])
def test_wrong_images(images):
    with pytest.raises((ValueError, TypeError), match="^images: "): SimCLRViews(8)(images, generator(0))
    if not isinstance(images, torch.Tensor) or not images.is_floating_point() or 0 in images.shape or images.ndim != 4 or images.shape[1] == 2:
        with pytest.raises((ValueError, TypeError), match="^images: "): resize(images, 4)


@pytest.mark.parametrize("name, value", [("views", 0), ("views", True), ("views", "a"), ("views", -1), ("views", 1.5), ("generator", None), ("generator", 3), ("among", (1, 2))])
def test_wrong_arguments_of_a_call(name, value):
    arguments = dict(generator=generator(0)) | {name: value}
    with pytest.raises((ValueError, TypeError), match=f"^{name}: "): SimCLRViews(8)(pictures("random"), **arguments)


@pytest.fixture(scope="module")
def noise():
    "Features that say nothing, of two classes of 99 : 1."
    x = torch.randn(2000, 8, generator=generator(0, "noise"))
    y = (torch.arange(2000) % 100 == 0).long()
    return x[:1000], y[:1000], x[1000:], y[1000:]


def test_classes_of_unequal_size(noise):
    linear = linear_probe(*noise)
    assert linear.accuracy > 0.97
    assert linear.mean_per_class == pytest.approx(0.5, abs=0.06)
    assert linear.record()["mean_per_class"] == linear.mean_per_class
    test_y = noise[3]
    by_hand = [linear.correct[test_y == c].double().mean().item() for c in (0, 1)]
    assert linear.mean_per_class == pytest.approx(np.mean(by_hand))
    assert knn_accuracy(*noise, k=20) > 0.97
    assert knn_accuracy(*noise, k=20, per_class=True) == pytest.approx(0.5, abs=0.06)
    few = few_shot_probe(*noise, per_class=5, draws=3)
    assert 0 <= few.mean_per_class <= 1


def test_a_class_that_training_lacks_counts():
    x = torch.eye(6).repeat(2, 1)
    y = torch.tensor([0, 0, 1, 1, 1, 0] * 2)
    test_y = torch.tensor([0, 0, 1, 7, 7, 0])
    probe = linear_probe(x, y, x[:6], test_y)
    assert probe.mean_per_class == pytest.approx(2 / 3)  # all of two classes, none of the third


@pytest.fixture
def folder(tmp_path):
    draws = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 8)):
        for kind in ("a", "b"):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(count): Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / part / kind / f"{i}.png")
    (tmp_path / "train" / "a" / "3.png").write_bytes(b"no picture")
    (tmp_path / "test" / "b" / "2.png").write_bytes(b"no picture")
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unreadable_images_are_left_out_of_probes(folder):
    splits, encoder = image_folder(folder, size=32, memory=0, progress=False), build_encoder("convnet", width=4)
    train_x, test_x = (encode(encoder, data, batch_size=5, workers=0) for data in splits)
    for data, x in zip(splits, (train_x, test_x)):
        assert len(data.unreadable) == 1
        absent, = data.unreadable
        assert x[absent].isnan().all()
        assert x[[i for i in range(len(x)) if i != absent]].isfinite().all()
        assert usable_labels(data)[absent] == -1 and int((usable_labels(data) >= 0).sum()) == len(data) - 1
    with pytest.raises(ValueError, match="train_x: 1 of 24 labelled rows.*usable_labels"): linear_probe(train_x, splits.train.labels, test_x, splits.test.labels)
    probe = linear_probe(train_x, usable_labels(splits.train), test_x, usable_labels(splits.test))
    assert (probe.n_train, probe.n_test) == (23, 15)
    assert len(sgd_probe(encoder, *splits, steps=3, batch_size=6, workers=0, progress=False).correct) == 15
    held = image_folder(folder, size=32, progress=False)  # in memory they are left out when they are loaded
    assert [len(part) for part in held] == [23, 15]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_can_be_read(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3): (tmp_path / "a" / f"{i}.png").write_bytes(b"no picture")
    data = image_folder(tmp_path, size=32, memory=0, progress=False).train
    with pytest.raises(ValueError, match="no image can be read"): encode(build_encoder("convnet", width=4), data, workers=0)


BAD = (None, "a", [1.0, 2.0], np.zeros((4, 2)), 3, torch.zeros(3), torch.zeros(2, 2, 2), torch.full((4, 2), math.nan), torch.zeros(4, 2).to(torch.complex64), torch.zeros(0, 2))
NUMBERS = (None, "a", -1, math.nan, [1], True)
PROBES = dict(linear_probe=dict(), few_shot_probe=dict(per_class=2, draws=1), knn_accuracy=dict(), knn_predict=dict())
ZERO_TOO = dict(linear_probe=("validation_share",), few_shot_probe=("per_class", "draws"), knn_accuracy=("k", "temperature"), knn_predict=("k", "temperature"))


def cases():
    for name in PROBES:
        parameters = inspect.signature(getattr(evaluation, name)).parameters
        for argument in parameters:
            if argument.endswith("_x") or argument.endswith("_y"): values = BAD
            elif argument in ("seed", "l2s") or parameters[argument].annotation == "bool": continue
            else: values = (*NUMBERS, 0) if argument in ZERO_TOO[name] or argument == "l2" else NUMBERS
            yield from ((name, argument, value) for value in values)
    yield from (("linear_probe", "l2s", value) for value in ((), (0,), (-1, 1), ("a",), (math.nan,)))
    yield from (("linear_probe", "validation_share", value) for value in (1, 2, math.inf))


@pytest.mark.parametrize("name, argument, value", list(cases()), ids=lambda v: str(v)[:20].replace("\n", " ") if not isinstance(v, torch.Tensor) else f"{v.dtype}{tuple(v.shape)}")
def test_probes_name_what_is_wrong(name, argument, value):
    good = dict(train_x=torch.eye(4).repeat(3, 1), train_y=torch.arange(12) % 2, test_x=torch.eye(4), test_y=torch.arange(4) % 2)
    if name == "knn_predict": del good["test_y"]
    arguments = good | PROBES[name] | {argument: value}
    with pytest.raises((ValueError, TypeError)) as found: getattr(evaluation, name)(**arguments)
    said = "l2" if argument == "l2s" else argument
    assert re.search(rf"\b{said}\b", str(found.value)), found.value


@pytest.mark.parametrize("call", [
    lambda: encode(None, load_data("digits").test), lambda: encode(build_encoder("convnet", width=4), None), lambda: encode(build_encoder("convnet", width=4), load_data("digits").test, batch_size=0),
    lambda: encode(build_encoder("convnet", width=4), load_data("digits").test, size=0), lambda: sgd_probe(None, None, None), lambda: sgd_probe(build_encoder("convnet", width=4), [1], [2]),
    lambda: evaluation.bootstrap_interval([True]), lambda: evaluation.bootstrap_interval(None), lambda: evaluation.paired_difference([True], torch.ones(1, dtype=torch.bool)), lambda: evaluation.seed_interval(3),
    lambda: evaluation.seed_interval(["a", "b"]), lambda: evaluation.alignment([1], [2]), lambda: evaluation.uniformity(None), lambda: evaluation.effective_rank([[1.0]]), lambda: evaluation.uniformity(np.eye(3)),
    lambda: evaluation.effective_rank(torch.eye(3).long()), lambda: evaluation.uniformity(torch.full((3, 2), math.nan)), lambda: mean_per_class([True], torch.tensor([1]))])
def test_the_rest_names_what_is_wrong(call):
    with pytest.raises((ValueError, TypeError), match=r"^[a-z_0-9]+(, [a-z_0-9]+)*: "): call()
