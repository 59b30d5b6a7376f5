"""Images that cannot be read leave their batch, with their companions, counted and named; or stop the run if asked to."""
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image

from clip_help_simclr.core import generator
from clip_help_simclr.data import TensorSet, batches, captions_from_labels, image_folder

BROKEN = {3: "first", 4: "second", 17: "third"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        (root / split).mkdir()
        for k in range(24): Image.new("L", (4, 4), k * 10).save(root / split / f"{k:02d}.png")
    for k in BROKEN: (root / "train" / f"{k:02d}.png").write_bytes(b"not a picture")
    return root


@pytest.fixture
def data(folder): return image_folder(folder, 4, memory=0).train


def run(data, batch_size=4, **options):
    "All batches, and what was said."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(batches(data, batch_size, workers=0, **options))
    for b in found:
        assert len(b.numbers) == len(b.images) == len(b.labels) > 0
        assert b.images[:, 0, 0, 0].tolist() == [n * 10 for n in b.numbers.tolist()]
    return found, [str(w.message) for w in caught]


def numbers(found): return [b.numbers.tolist() for b in found]


def test_left_out_counted_and_named(data):
    found, said = run(data)
    assert numbers(found)[:2] == [[0, 1, 2], [5, 6, 7]] and numbers(found)[4] == [16, 18, 19]
    assert list(data.unreadable) == [3, 4, 17] and "UnidentifiedImageError" in data.unreadable[3]
    assert len(said) == 1 and "3 of 24 images of" in said[0] and "'03.png' (Unid" in said[0] and "'17.png'" in said[0]
    again, said = run(data)
    assert numbers(again) == numbers(found) and said == [] # said once


@pytest.mark.parametrize("workers", [0, 2])
def test_workers(data, workers):
    with pytest.warns(UserWarning, match="3 of 24 images"): found = list(batches(data, 4, workers=workers))
    assert numbers(found) == numbers(run(data)[0]) and sorted(data.unreadable) == [3, 4, 17]


def test_said_where_a_pass_is_broken_off(data):
    with pytest.warns(UserWarning, match="1 of 24 images"):
        passing = batches(data, 4, workers=0)
        next(passing)
        passing.close()
    assert list(data.unreadable) == [3]


def test_strict(folder):
    data = image_folder(folder, 4, memory=0, strict=True).train
    assert data.strict
    for options in (dict(workers=0), dict(workers=1)):
        with pytest.raises(ValueError, match="^data: cannot read '03.png' of .*UnidentifiedImageError.*Remove or replace it$"):
            list(batches(data, 4, **options))
    assert data.subset(torch.arange(5)).strict
    with pytest.raises(ValueError, match="cannot read '03.png'"):
        image_folder(folder, 4, strict=True, progress=False).train


def test_in_memory(folder):
    with pytest.warns(UserWarning, match="skipped 3 of 24 images"):
        data = image_folder(folder, 4, progress=False).train
    assert len(data) == 21 and list(data.skipped) == ["03.png", "04.png", "17.png"]
    assert data.unreadable == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(b.numbers) for b in batches(data, 4)) == 21


def test_companions_go_together(data):
    companion = torch.arange(24).roll(-1) # k goes with k + 1
    found, said = run(data, companion=companion)
    left = sorted(n for part in numbers(found) for n in part)
    assert left == [n for n in range(24) if n not in BROKEN and (n + 1) % 24 not in BROKEN]
    for b in found:
        assert b.companions[:, 0, 0, 0].tolist() == [(n + 1) % 24 * 10 for n in b.numbers.tolist()]
    assert sorted(data.unreadable) == [3, 4, 17] and len(said) == 1


def test_skip_and_share(data):
    whole, _ = run(data, 6, generator=generator(0))
    for skip in range(5):
        assert numbers(run(data, 6, generator=generator(0), skip=skip)[0]) == numbers(whole)[skip:]
    parts = [run(data, 6, generator=generator(0), share=(k, 2))[0] for k in range(2)]
    assert [a + b for a, b in zip(*map(numbers, parts), strict=True)] == numbers(whole)


def test_a_batch_without_any(data):
    found, said = run(data, 2, among=torch.tensor([0, 1, 3, 4, 5, 6]))
    assert numbers(found) == [[0, 1], [5, 6]] and len(said) == 1 and "1 batch had no image that could be read, and was left out" in said[0]
    found, _ = run(data, 2, among=torch.tensor([0, 1, 3, 4, 5, 6]), skip=1) # counts the batch that was left out
    assert numbers(found) == [[5, 6]]
    assert run(data, 2, among=torch.tensor([3, 4]))[0] == []
    with pytest.raises(ValueError, match="none of 2 images of .* in this process's share of a batch can be read"):
        run(data, 4, among=torch.tensor([3, 4, 5, 6]), share=(0, 2))


def test_empty_shares_stay(data):
    found = [list(batches(data, 4, among=torch.arange(3), share=(k, 4), workers=0)) for k in range(4)]
    assert [len(part[0].numbers) for part in found] == [1, 1, 1, 0]


def test_numbers_of_subsets(data):
    run(data)
    assert list(data.subset(torch.tensor([5, 4, 3])).unreadable) == [1, 2]
    named = captions_from_labels(data)
    assert named.unreadable is data.unreadable and named.caption_source == "class names"


def test_read_reports(data):
    images, failures = data.read(torch.tensor([2, 3]))
    assert list(failures) == [3] and images[1].eq(0).all() and images[0, 0, 0, 0] == 20
    assert [list(failures) for _, _, failures in data.reads(torch.arange(8).split(4), 0)] == [[3],
            [4]] and list(data.unreadable) == [3, 4]


@pytest.mark.parametrize("options, error, says", [
    (dict(batch_size=0), ValueError, "batch_size: 0"), (dict(batch_size=-3), ValueError, "batch_size: -3"),
    (dict(batch_size=2.5), TypeError, "batch_size: 2.5"),
    (dict(batch_size=None), TypeError, "batch_size: None"),
    (dict(batch_size="4"), TypeError, "batch_size: '4'"),
    (dict(batch_size=True), TypeError, "batch_size: True"),
    (dict(batch_size=float("nan")), TypeError, "batch_size: nan"), (dict(skip=-1), ValueError, "skip: -1"),
    (dict(skip=None), TypeError, "skip"), (dict(workers=-2), ValueError, "workers: -2"),
    (dict(workers=1.5), TypeError, "workers: 1.5"), (dict(share=(2, 2)), ValueError, "share: 2"),
    (dict(share=(-1, 2)), ValueError, "share: -1"), (dict(share=(0, 0)), ValueError, "share: 0"),
    (dict(share=3), TypeError, "share: 3"), (dict(share=None), TypeError, "share"),
    (dict(among=[1, 2]), TypeError, "among: list"),
    (dict(among=torch.tensor([-1])), ValueError, "among: numbers from -1"),
    (dict(among=torch.tensor([24])), ValueError, "among: numbers from 24 to 24 for 24 images"),
    (dict(among=torch.tensor([0.0])), ValueError, "among: torch.float32"),
    (dict(among=torch.ones(24, dtype=torch.bool)), ValueError, "among: torch.bool"),
    (dict(companion=torch.arange(5)), ValueError, "companion: 5 numbers for 24 images"),
    (dict(companion=torch.arange(24) - 1), ValueError, "companion: numbers from -1"),
    (dict(generator=0), TypeError, "generator: int"), (dict(drop_last="no"), TypeError, "drop_last: 'no'"),
])
def test_bad_arguments(data, options, error, says):
    with pytest.raises(error, match=f"^{says}"): next(batches(data, options.pop("batch_size", 4), **options))


def test_bad_data():
    for value in (None, [1, 2], torch.zeros(3, 3, 4, 4)):
        with pytest.raises(TypeError, match="^data: "): next(batches(value, 4))


def test_huge_batch(data): assert [len(b.numbers) for b in run(data, 10**15)[0]] == [21]


def test_a_data_set_of_ones_own(data):
    "A class that says only how to read is strict as well."
    class Own(TensorSet):
        def read(self, numbers): return self.batch(numbers), {2: "torn"}
    own = Own(name="own", classes=(), labels=torch.full((4,), -1), captions=[""] * 4, caption_source="none",
              size=4, images=torch.zeros(4, 3, 4, 4, dtype=torch.uint8))
    with pytest.warns(UserWarning, match="1 of 4 images of own"):
        assert numbers(batches(own, 4)) == [[0, 1, 3]]
    with pytest.raises(ValueError, match="cannot read '2' of own .torn."):
        list(batches(replace(own, strict=True), 4))
