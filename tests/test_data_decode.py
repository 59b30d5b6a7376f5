"""Every kind of picture comes out with the right values: from memory, streamed, out of archives, from Hugging Face."""
import io
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, features

from clip_help_simclr.data import EncodedSet, TensorSet, decode, image_folder, load_data, tar_shards

SIDE = 8


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def ramp(levels, dtype):
    "A picture whose columns have the given values."
    return Image.fromarray(np.tile(np.array(levels, dtype=dtype), (len(levels), 1)))


def row(file, channels=3, background="white"):
    "The channels of the first row of pixels."
    size = Image.open(file).size[0]
    file.seek(0)
    return decode(file, size, channels, background)[:, 0].tolist()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bits(form):
    levels = [0, 257, 257 * 100, 257 * 200, 65_535, 128, 129, 65_000]
    expected = [0, 1, 100, 200, 255, 0, 1, 253]
    assert row(encoded(ramp(levels, np.uint16), form)) == [expected] * 3
    assert row(encoded(ramp(levels, np.uint16), form), channels=1) == [expected]
    assert row(encoded(ramp(levels, np.uint16), form), channels=4) == [*[expected] * 3, [255] * 8]


def test_16_bits_big_endian():
    image = Image.frombytes("I;16B", (2, 2), struct.pack(">4H", 0, 65_535, 257 * 7, 257 * 9))
    assert decode(encoded(image, "TIFF"), 2, 1).flatten().tolist() == [0, 255, 7, 9]


def test_16_bits_resized():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint16)
    deep, shallow = Image.fromarray(noise * 257), Image.fromarray(noise.astype(np.uint8))
    assert torch.equal(decode(encoded(deep), SIDE), decode(encoded(shallow), SIDE))


@pytest.mark.parametrize("levels, dtype, expected", [
    ([0, 100, 255], np.int32, [0, 100, 255]),
    ([0, 257, 65_535], np.int32, [0, 1, 255]),
    ([0, 2**30, 2**31 - 1], np.int32, [0, 128, 255]),
    ([0, 0.5, 1], np.float32, [0, 128, 255]),
    ([0, 100, 255], np.float32, [0, 100, 255]),
    ([0, 257, 65_535], np.float32, [0, 1, 255]),
])
def test_32_bits(levels, dtype, expected):
    assert row(encoded(ramp(levels, dtype), "TIFF")) == [expected] * 3


@pytest.mark.parametrize("levels, dtype", [([-1, 0, 5], np.int32), ([0, 1, np.nan], np.float32),
                                           ([0, 1, np.inf], np.float32), ([-0.5, 0, 1], np.float32)])
def test_32_bits_of_unusual_range(levels, dtype):
    with pytest.raises(ValueError, match="Convert it to 8 or 16 bits"):
        decode(encoded(ramp(levels, dtype), "TIFF"), 3)


def test_one_bit_and_palette():
    assert row(encoded(Image.fromarray(np.array([[0, 255], [0, 255]], dtype=np.uint8)).convert("1"))) == [[0,
            255]] * 3
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    assert row(encoded(palette)) == [[10, 10], [20, 20], [30, 30]]
    assert row(encoded(palette, "GIF")) == [[10, 10], [20, 20], [30, 30]]


def clear_pictures():
    "Pictures that show (200, 0, 0) or 200 on the left and hide black or green on the right."
    rgba = Image.fromarray(np.array([[[200, 0, 0, 255], [0, 255, 0, 0]]] * 2, dtype=np.uint8))
    la = Image.fromarray(np.array([[[200, 255], [0, 0]]] * 2, dtype=np.uint8))
    palette = Image.fromarray(np.array([[0, 1], [0, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([200, 0, 0, 0, 255, 0])
    grey = Image.fromarray(np.array([[200, 0], [200, 0]], dtype=np.uint8))
    rgb = Image.fromarray(np.array([[[200, 0, 0], [0, 255, 0]]] * 2, dtype=np.uint8))
    deep = Image.fromarray(np.array([[200 * 257, 5], [200 * 257, 5]], dtype=np.uint16))
    return dict(
        rgba=(encoded(rgba), (200, 0, 0)),
        webp=(encoded(rgba, "WEBP", lossless=True, exact=True), (200, 0, 0)),
        tiff=(encoded(rgba, "TIFF"), (200, 0, 0)),
        la=(encoded(la), (200, 200, 200)),
        palette_index=(encoded(palette, transparency=1), (200, 0, 0)),
        palette_bytes=(encoded(palette, transparency=b"\xff\x00"), (200, 0, 0)),
        gif=(encoded(palette, "GIF", transparency=1), (200, 0, 0)),
        grey_key=(encoded(grey, transparency=0), (200, 200, 200)),
        rgb_key=(encoded(rgb, transparency=(0, 255, 0)), (200, 0, 0)),
        deep_key=(encoded(deep, transparency=5), (200, 200, 200)),
    )


@pytest.mark.parametrize("kind", clear_pictures())
def test_transparency(kind):
    file, shown = clear_pictures()[kind]
    for background, behind in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
        pixels = decode(file, 2, 3, background)[:, 0].T.tolist()
        assert pixels == [list(shown), list(behind)]
    kept = decode(file, 2, 4)[:, 0].T.tolist()
    assert kept[0] == [*shown, 255] and kept[1][3] == 0
    assert decode(file, 2, 1)[0, 0].tolist() == [Image.new("RGB", (1, 1), shown).convert("L").getpixel((0, 0)), 255]


def test_half_transparent_and_resized():
    image = Image.fromarray(np.array([[[0, 0, 0, 128]]], dtype=np.uint8))
    assert decode(encoded(image), 1).flatten().tolist() == [127] * 3
    logo = np.zeros((64, 64, 4), dtype=np.uint8)
    logo[..., 3] = np.arange(64)[None] % 2 * 255 # black lines, black hidden between them
    assert 120 < decode(encoded(Image.fromarray(logo)), SIDE).float().mean() < 135


def test_opaque_as_ever():
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    solid = np.dstack([noise, np.full((24, 24), 255, dtype=np.uint8)])
    expected = torch.from_numpy(np.array(Image.fromarray(noise).resize((SIDE, SIDE),
            Image.Resampling.BICUBIC))).permute(2, 0, 1)
    for image in (noise, solid): assert torch.equal(decode(encoded(Image.fromarray(image)), SIDE), expected)


def without_adobe_marker(file):
    data = file.getvalue()
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2:start + 4], "big")
    return io.BytesIO(data[:start] + data[start + 2 + length:])


def test_cmyk():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for form in ("JPEG", "TIFF"): assert decode(encoded(red, form), 1)[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(encoded(red, "JPEG"), 1, 4)[:, 0, 0].tolist() == [255, 0, 0, 255]
    negative = Image.new("CMYK", (16, 16),
                         (255, 0, 0, 255)) # Pillow writes the negative, and Adobe's marker, which says so
    assert decode(without_adobe_marker(encoded(negative, "JPEG")), 1)[:, 0, 0].tolist() == [255, 0, 0]


def test_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, form in (("L", "PNG"), ("RGB", "JPEG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")):
        half = np.zeros((40, 40), dtype=np.uint8)
        half[:20] = 255
        image = Image.fromarray(half)
        if mode == "I;16": image = Image.fromarray(half.astype(np.uint16) * 257)
        else: image = image.convert(mode)
        upright = decode(encoded(image, form, exif=exif), 40)[0, 20] > 127
        assert upright.tolist() == [False] * 20 + [True] * 20, mode


def test_reduced_jpeg():
    "What is decoded at a fraction of its size has the same colours, in grey and in CMYK too."
    for image, expected in ((Image.new("L", (800, 640), 77), [77] * 3),
                            (Image.new("CMYK", (800, 640), (0, 255, 255, 0)), [255, 0, 0]),
                            (Image.new("RGB", (800, 640), (10, 200, 30)), [10, 200, 30])):
        shown = decode(encoded(image, "JPEG", quality=95), SIDE).float().mean((1, 2))
        assert (shown - torch.tensor(expected)).abs().max() <= 3


@pytest.fixture
def pictures(tmp_path):
    "Four pictures of 16 bits, transparent, grey and CMYK, as files and in an archive."
    folder = tmp_path / "pictures"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        Image.fromarray(np.full((9, 9), 257 * 40, dtype=np.uint16)).save(folder / split / "a.png")
        Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(folder / split / "b.png")
        Image.new("L", (9, 9), 90).save(folder / split / "c.png")
        Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(folder / split / "d.JPG")
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as tar: tar.add(folder / split, ".")
    return tmp_path


EXPECTED = {3: [(40,) * 3, (0, 0, 128), (90,) * 3, (255, 0, 0)], 1: [(40,), (15,), (90,), (76,)],
            4: [(40, 40, 40, 255), (0, 0, 0, 0), (90, 90, 90, 255), (255, 0, 0, 255)]}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize("source", ["folder", "webdataset", "hf"])
def test_every_way(pictures, source, memory, channels, monkeypatch):
    spec = dict(folder=f"folder:{pictures / 'pictures'}", webdataset=f"webdataset:{pictures}",
                hf=f"hf:{pictures / 'hf'}")[source]
    if source == "hf":
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        files = [dict(image=str(pictures / "pictures" / "train" / name)) for name in ("a.png", "b.png", "c.png",
                "d.JPG")]
        part = datasets.Dataset.from_list(files, datasets.Features(image=datasets.Image()))
        datasets.DatasetDict(train=part, test=part).save_to_disk(str(pictures / "hf"))
    train, test = load_data(spec, size=5, channels=channels, background="#000080", memory=memory, progress=False,
                            workers=0)
    for data in (train, test):
        assert isinstance(data, TensorSet if memory else EncodedSet) and data.channels == channels
        images = data.batch(torch.arange(4))
        assert images.shape == (4, channels, 5, 5)
        assert [tuple(image[:, 2, 2].tolist()) for image in images] == EXPECTED[channels]


def test_channels_elsewhere():
    grey = TensorSet(name="g", classes=(), labels=torch.full((2,), -1), captions=["", ""], caption_source="none",
                     size=4, channels=1, images=torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    assert grey[0].image.shape == (1, 4, 4) and grey.subset(torch.tensor([1])).channels == 1
    with pytest.raises(ValueError, match="channels=1"): replace(grey, channels=3)
    for spec in ("digits", "shapes", "cifar10:/nowhere"):
        with pytest.raises(ValueError, match="channels: 1, but the images of .* have 3"):
            load_data(spec, channels=1)


def test_fingerprint_knows_channels(pictures):
    def made(**options): return image_folder(pictures / "pictures", 5, memory=0, **options).train.fingerprint
    assert len({made(), made(channels=1), made(channels=4), made(background="black")}) == 4
    assert made() == made(channels=3, background="white")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    shown = decode(encoded(Image.new("RGB", (16, 16), (200, 30, 30)), "AVIF"), SIDE).float().mean((1, 2))
    assert (shown - torch.tensor([200, 30, 30])).abs().max() < 6


def test_tar_shards_splits(pictures):
    train, test = tar_shards(str(pictures), size=5, memory=0)
    assert [data.ids[3] for data in (train, test)] == ["train-0.tar/./d", "test-0.tar/./d"]
