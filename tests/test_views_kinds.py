"""Views of images of every type and number of channels; bad arguments to augment end in errors that name them."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF

from clip_help_simclr import augment
from clip_help_simclr.augment import SimCLRViews, render_views, resize
from clip_help_simclr.core import generator

NAMED = (TypeError, ValueError)
# of one rounding of a number in [0, 1]; float32 sums in another order for uint8
ROUNDING = {torch.uint8: 2e-6, torch.float64: 2e-6, torch.float16: 2.5e-4, torch.bfloat16: 2e-3}
RECIPES = [SimCLRViews(32, jitter=1), SimCLRViews(32, strength=2.5, jitter=1, gray=0.5), SimCLRViews(72, blur=1)]


def awkward():
    "Grey, black, white, saturated pixels and noise: flat images, and all in one. Multiples of 1/255: uint8 holds them."
    grey = [[0, 0, 0], [255, 255, 255], [128, 128, 128], [1, 1, 1]]
    vivid = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [254, 255, 255]]
    colours = torch.tensor(grey + vivid, dtype=torch.uint8)
    flat = colours[:, :, None, None].expand(-1, -1, 40, 52)
    patches = colours[torch.arange(40 * 52) // 7 % len(colours)].T.reshape(1, 3, 40, 52)
    noise = torch.randint(256, (4, 3, 40, 52), dtype=torch.uint8, generator=generator(0, "noise"))
    return torch.cat([flat, patches, noise])


def of_type(images, dtype): return images if dtype == torch.uint8 else (images.double() / 255).to(dtype)


def exact(images): return images.float() / 255 if images.dtype == torch.uint8 else images.float()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_types(recipe, dtype):
    images = of_type(awkward(), dtype)
    views = recipe(images, generator(0, "views"), 3)
    expected = recipe(exact(images), generator(0, "views"), 3)
    assert views.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert views.isfinite().all() and views.min() >= 0 and views.max() <= 1
    # the hue of a nearly grey pixel depends on its last digits, but its colours are nearly the same whatever the hue
    tolerance = max(ROUNDING[dtype], 1e-4 if dtype in (torch.uint8, torch.float64) else 0)
    torch.testing.assert_close(views.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_images(dtype):
    "A position of 300 pixels has no half in bfloat16."
    images = torch.rand(3, 3, 400, 300, generator=generator(0)).to(dtype)
    torch.testing.assert_close(resize(images, 24).float(), resize(images.float(), 24), rtol=0, atol=ROUNDING[dtype])
    recipe = SimCLRViews(24)
    expected = recipe(images.float(), generator(0))
    torch.testing.assert_close(recipe(images, generator(0)).float(), expected, rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_transforms(dtype):
    images, n = of_type(awkward(), dtype), len(awkward())
    factor, shift = torch.linspace(0, 2, n), torch.linspace(-0.5, 0.5, n)
    order = torch.rand(n, 4, generator=generator(0)).argsort(1)
    factors = torch.stack([factor, factor, factor, shift], 1)
    calls = [(augment.grayscale,), (augment.adjust_brightness, factor), (augment.adjust_contrast, factor),
             (augment.adjust_saturation, factor), (augment.adjust_hue, shift), (augment.color_jitter, factors, order),
             (augment.gaussian_blur, factor + 0.1, 7)]
    for transform, *parameters in calls:
        found = transform(images, *parameters)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), transform(images.float(), *parameters), rtol=0, atol=ROUNDING[dtype])


def one_channel(image, p, k, size):
    "torchvision, as far as it can do one channel."
    image = TF.resized_crop(image, *p.box[k].tolist(), size=[size, size], antialias=True)
    if p.flip[k]: image = TF.horizontal_flip(image)
    for step in p.order[k].tolist() if p.jitter[k] else []:
        if step == 0: image = TF.adjust_brightness(image, p.factors[k, 0].item())
        if step == 1: image = TF.adjust_contrast(image, p.factors[k, 1].item())
    kernel = size // 10 // 2 * 2 + 1
    return TF.gaussian_blur(image, [kernel, kernel], [p.sigma[k].item()] * 2) if p.sigma[k] else image


@pytest.mark.parametrize("size", [32, 72])
def test_one_channel(size):
    images = of_type(awkward(), torch.float64)[:, :1]
    p = SimCLRViews(size).parameters(4 * len(images), 40, 52, generator(0))
    expected = torch.stack([one_channel(images[k % len(images)], p, k, size) for k in range(4 * len(images))])
    torch.testing.assert_close(render_views(images, p, size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, *ROUNDING])
@pytest.mark.parametrize("size", [32, 72])
def test_four_channels(size, dtype):
    "The colours are those of the image without its fourth channel, which is cropped, flipped and blurred only."
    images = of_type(torch.cat([awkward(), awkward()[:, 2:].flip(0)], 1), dtype)
    p = SimCLRViews(size).parameters(4 * len(images), 40, 52, generator(0))
    views = render_views(images, p, size)
    unjittered = replace(p, jitter=torch.zeros_like(p.jitter), gray=torch.zeros_like(p.gray))
    tolerance = max(ROUNDING[dtype], 1e-4)
    assert bool(p.jitter.any()) and bool(p.gray.any())
    assert views.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    torch.testing.assert_close(views[:, :3], render_views(images[:, :3], p, size), rtol=0, atol=tolerance)
    torch.testing.assert_close(views[:, 3:], render_views(images[:, 3:], unjittered, size), rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 4])
def test_transforms_of_channels(channels):
    images, n = torch.rand(6, channels, 9, 11, generator=generator(0)), 6
    factor, shift = torch.linspace(0, 2, n), torch.linspace(-0.5, 0.5, n)
    order = torch.rand(n, 4, generator=generator(0)).argsort(1)
    factors = torch.stack([factor, factor, factor, shift], 1)
    assert resize(images, 5).shape == (n, channels, 5, 5)
    torch.testing.assert_close(resize(images, 5)[:, -1:], resize(images[:, -1:], 5))
    blurred = augment.gaussian_blur(images, factor + 0.1, 5)
    torch.testing.assert_close(blurred[:, -1:], augment.gaussian_blur(images[:, -1:], factor + 0.1, 5))
    def colours_alone(transform, parameters):
        "Of four channels, the colours are those of the image without its fourth, which stays."
        found = transform(images, *parameters)
        without = transform(images[:, :3], *parameters)
        return torch.equal(found[:, 3], images[:, 3]) and torch.equal(found[:, :3], without)

    leave_grey = [(augment.grayscale,), (augment.adjust_saturation, factor), (augment.adjust_hue, shift)]
    for transform, *parameters in leave_grey:
        if channels == 1: assert torch.equal(transform(images, *parameters), images)
        else: assert colours_alone(transform, parameters)
    change_grey = [
        (augment.adjust_brightness, factor), (augment.adjust_contrast, factor), (augment.color_jitter, factors, order)]
    for transform, *parameters in change_grey:
        assert (transform(images, *parameters)[:, :1] != images[:, :1]).any()
        if channels == 4: assert colours_alone(transform, parameters)
    if channels == 1:
        flat = images.mean((1, 2, 3))[:, None, None, None]
        expected = (factor[:, None, None, None] * (images - flat) + flat).clamp(0, 1)
        torch.testing.assert_close(augment.adjust_contrast(images, factor), expected)


NOT_NUMBERS = ["0.5", [0.5], (0.5,), True, math.nan, math.inf, -math.inf, np.zeros(2), torch.ones(2), {}, object(), 1j]
FIELDS = dict(
    size=[0, -1, 32.0, None, 10**9], flip=[None, -0.1, 1.1], jitter=[None, -0.1, 1.1], strength=[-0.1, 2.6],
    gray=[None, -0.1, 1.1], blur=[-0.1, 1.1])
FIELDS = {name: bad + NOT_NUMBERS for name, bad in FIELDS.items()}
FIELDS["crop_scale"] = [
    None, 0.5, (), (0.1,), (0.1, 0.2, 0.3), (0, 1), (0.5, 0.1), (0.1, 1.1), (math.nan, 1), (0.1, math.inf),
    ("0.1", 1), (True, 1), "ab", np.array([0.1, 1]), {}, object()]
FIELD_CASES = [(name, value) for name, values in FIELDS.items() for value in values]


@pytest.mark.parametrize("name, value", FIELD_CASES, ids=lambda v: v if isinstance(v, str) else repr(v)[:20])
def test_fields(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got "): SimCLRViews(**{name: value})


def test_fields_that_are_right():
    made = SimCLRViews(np.int64(96), crop_scale=[np.float32(0.5), 1], flip=np.float64(0.25), jitter=1, blur=0)
    assert made == SimCLRViews(96, crop_scale=(0.5, 1), flip=0.25, jitter=1, blur=0)
    assert type(made.size) is int and type(made.flip) is float and (made.strength, made.blur) == (1.0, 0)


IMAGES = torch.rand(2, 3, 8, 8, generator=generator(0))
PARAMETERS = SimCLRViews(8).parameters(4, 8, 8, generator(0))
ANY = [None, "a", 5, [1, 2], np.zeros((2, 3, 8, 8)), object()]  # for arguments that are tensors
NOT_FLOATS = [
    *ANY, torch.zeros(2), torch.zeros(2, 8, 8), torch.zeros(2, 2, 8, 8), torch.zeros(2, 5, 8, 8),
    torch.zeros(2, 3, 0, 8), torch.zeros(2, 3, 8, 8, dtype=torch.int64), torch.zeros(2, 3, 8, 8, dtype=torch.complex64)]
NOT_BYTES = [torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
NOT_VIEWED = [*NOT_FLOATS, IMAGES * 255, IMAGES - 1, IMAGES * math.nan]
NOT_COUNTS = [None, 0, -1, 2.5, "2", True, math.nan, [2], np.zeros(2), torch.ones(2)]
NOT_COUNTS_FROM_0 = NOT_COUNTS[:1] + NOT_COUNTS[2:]
NOT_FACTORS = [
    *ANY, torch.ones(3), torch.ones(()), torch.ones(2, 1), torch.ones(2, dtype=torch.int64),
    torch.tensor([1, math.nan]), torch.tensor([math.inf, 1])]
NOT_GENERATORS = [None, 0, "a", np.random.default_rng(0)]
NOT_BOXES = [
    *ANY, torch.zeros(2, 4), torch.ones(3, 4).long(), torch.ones(2, 3).long(), torch.tensor([[0, 0, 9, 8]] * 2),
    torch.tensor([[-1, 0, 4, 4]] * 2), torch.tensor([[0, 0, 0, 8]] * 2)]
NOT_FLIPS = [*ANY[1:], torch.ones(2), torch.ones(3, dtype=torch.bool)]
NOT_ORDERS = [
    *ANY, torch.zeros(2, 4).long(), torch.rand(2, 4), torch.arange(4).expand(3, 4), torch.arange(3).expand(2, 3)]
NOT_PLACES = [0, (), (1, 2), (-1, 4), (0,), (0, 1), "ab", (0.0, 2), (None, 2)]
NOT_PARAMETERS = [*ANY, PARAMETERS[:3]] + [
    replace(PARAMETERS, **{name: value})
    for name in vars(PARAMETERS) for value in (None, np.zeros(4), torch.zeros(3), torch.full((4,), math.nan))]
NEGATIVE = [torch.tensor([-0.1, 1])]
BOX = torch.tensor([[0, 0, 8, 8]] * 2)
ORDER = torch.arange(4).expand(2, 4)
CALLS = {  # callable: the right arguments, and wrong ones by name
    "crop_resize": (
        augment.crop_resize, dict(images=IMAGES, box=BOX, size=4, flip=None),
        dict(images=NOT_FLOATS, box=NOT_BOXES, size=NOT_COUNTS, flip=NOT_FLIPS)),
    "resize": (resize, dict(images=IMAGES, size=4), dict(images=NOT_FLOATS, size=NOT_COUNTS)),
    "grayscale": (augment.grayscale, dict(images=IMAGES), dict(images=NOT_FLOATS + NOT_BYTES)),
    **{name: (
        getattr(augment, name), dict(images=IMAGES, factor=torch.ones(2)),
        dict(images=NOT_FLOATS + NOT_BYTES, factor=NOT_FACTORS + NEGATIVE))
       for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation")},
    "adjust_hue": (
        augment.adjust_hue, dict(images=IMAGES, shift=torch.ones(2)),
        dict(images=NOT_FLOATS + NOT_BYTES, shift=NOT_FACTORS)),
    "color_jitter": (
        augment.color_jitter, dict(images=IMAGES, factors=torch.ones(2, 4), order=ORDER),
        dict(images=NOT_FLOATS + NOT_BYTES, factors=[*NOT_FACTORS, -torch.ones(2, 4)], order=NOT_ORDERS)),
    "gaussian_blur": (
        augment.gaussian_blur, dict(images=IMAGES, sigma=torch.ones(2), kernel=3),
        dict(images=NOT_FLOATS + NOT_BYTES, sigma=[*NOT_FACTORS, *NEGATIVE, torch.zeros(2)],
             kernel=[*NOT_COUNTS, 2, 17])),
    "crop_boxes": (
        augment.crop_boxes, dict(n=2, height=8, width=8, scale=(0.1, 1), generator=generator(0)),
        dict(n=NOT_COUNTS_FROM_0, height=NOT_COUNTS, width=NOT_COUNTS, scale=FIELDS["crop_scale"],
             generator=NOT_GENERATORS)),
    "render_views": (
        render_views, dict(images=IMAGES, parameters=PARAMETERS, size=8),
        dict(images=NOT_VIEWED, size=NOT_COUNTS, parameters=NOT_PARAMETERS)),
    "SimCLRViews.parameters": (
        SimCLRViews(8).parameters, dict(n=2, height=8, width=8, generator=generator(0)),
        dict(n=NOT_COUNTS_FROM_0, height=NOT_COUNTS, width=NOT_COUNTS, generator=NOT_GENERATORS)),
    "SimCLRViews()": (
        SimCLRViews(8), dict(images=IMAGES, generator=generator(0), views=2, among=None),
        dict(images=NOT_VIEWED, generator=NOT_GENERATORS, views=NOT_COUNTS, among=NOT_PLACES)),
}


def test_all_are_here():
    assert {name.partition(".")[0].removesuffix("()") for name in CALLS} | {"ViewParameters"} == set(augment.__all__)


@pytest.mark.parametrize("call", CALLS)
def test_arguments(call):
    function, right, wrong = CALLS[call]
    assert set(right) == set(wrong)
    function(**right)
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(NAMED, match=f"^{name}[.:]") as error: function(**right | {name: value})
            assert "\n" not in str(error.value) and len(str(error.value)) < 300
            if isinstance(value, np.ndarray) and value.ndim == 4 and name != "parameters":
                assert "torch.from_numpy" in str(error.value)


def test_no_images():
    for channels in (1, 3, 4):
        for side in (8, 16):
            none = torch.zeros(0, channels, side, side)
            assert SimCLRViews(8)(none, generator(0)).shape == resize(none, 8).shape == (0, channels, 8, 8)
