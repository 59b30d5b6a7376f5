"""A data set changes, and its cache is brought up to date: kept rows are kept, new ones are made, and the bytes are those of a cache that is made anew."""
import random
import shutil
import subprocess
import time
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from processes import chs, completed, kill, started, wait_until

from clip_help_simclr.data import load_data
from clip_help_simclr.guides import CaptionGuide, EmbeddingCache, LabelGuide, OpenCLIPGuide, TextInducedGuide, TextTowerGuide

SETTINGS = dict(shard_rows=8, batch_size=4, progress=False)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    path = tmp_path_factory.mktemp("guide") / "guide.safetensors"
    CaptionGuide.train(load_data("digits").train, share=0.02, epochs=1, device="cpu", progress=False).save(path)
    return CaptionGuide.load(path, "cpu"), path


def picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.with_suffix(".txt").write_text(f"picture number {seed}")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for part in ("train", "test"): (folder / part / "kind").mkdir(parents=True)
    for i in range(30): picture(folder / "train" / "kind" / f"{i:02d}.png", i)
    picture(folder / "test" / "kind" / "t.png", 1000)
    return folder


def changed(folder):
    "Two images come, at the beginning and in the middle, one goes, one changes, one gets another name, one cannot be read."
    kind = folder / "train" / "kind"
    picture(kind / "00a.png", 100)
    picture(kind / "15a.png", 101)
    (kind / "07.png").unlink()
    (kind / "07.txt").unlink()
    picture(kind / "20.png", 102)
    (kind / "25.png").rename(kind / "25b.png")
    (kind / "25.txt").rename(kind / "25b.txt")
    (kind / "29.png").write_bytes(b"no picture")


def data_of(folder, memory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(f"folder:{folder}", size=32, memory=memory, progress=False).train


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("memory", [0, 2 ** 30], ids=["streamed", "in memory"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_update_is_as_if_made_anew(guide, images, tmp_path, capsys, memory, dtype):
    guide, settings = guide[0], dict(SETTINGS, dtype=dtype)
    EmbeddingCache.build(guide, data_of(images, memory), tmp_path / "cache", **settings)
    changed(images)
    data, seen = data_of(images, memory), []
    encode = CaptionGuide.encode
    with patch.object(CaptionGuide, "encode", lambda self, batch: seen.append(len(batch)) or encode(self, batch)):
        updated = EmbeddingCache.build(guide, data, tmp_path / "cache", **(settings | dict(progress=True)))
    anew = EmbeddingCache.build(guide, data, tmp_path / "anew", **settings)
    assert files(tmp_path / "cache") == files(tmp_path / "anew")
    assert torch.equal(updated.whole().nan_to_num(), anew.whole().nan_to_num())
    updated.check(data, guide)
    updated.verify()
    said = capsys.readouterr().err
    assert "15a.png" in said and "gone: " in said and "07.png" in said and "changed: " in said and "20.png" in said
    assert f"{len(data) - 3 - (memory == 0)} rows are kept" in said  # all but two new ones, one changed, and one that cannot be read
    assert set(seen) == {4} and len(seen) <= 5  # one step of old images is repeated


def test_nothing_is_done_where_nothing_has_changed(guide, images, tmp_path):
    data = data_of(images, 0)
    EmbeddingCache.build(guide[0], data, tmp_path / "cache", **SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    with patch.object(CaptionGuide, "encode", side_effect=AssertionError("embedded again")): EmbeddingCache.build(guide[0], data_of(images, 0), tmp_path / "cache", **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before


def test_a_machine_that_rounds_otherwise_makes_all_rows_anew(guide, images, tmp_path):
    EmbeddingCache.build(guide[0], data_of(images, 0), tmp_path / "cache", **SETTINGS)
    changed(images)
    data, encode = data_of(images, 0), CaptionGuide.encode
    with patch.object(CaptionGuide, "encode", lambda self, batch: encode(self, batch) + 1e-7):
        with pytest.warns(UserWarning, match="does not repeat the rows.*All of them are made anew"): EmbeddingCache.build(guide[0], data, tmp_path / "cache", **SETTINGS)
        EmbeddingCache.build(guide[0], data, tmp_path / "anew", **SETTINGS)
    assert files(tmp_path / "cache") == files(tmp_path / "anew")


def test_captions_are_what_a_text_guide_s_rows_are_made_from(guide, images, tmp_path):
    texts = TextTowerGuide(guide[0])
    numbers = torch.arange(len(data_of(images, 0)))
    data = data_of(images, 0)
    vocabulary = ["zero", "one", "two", "three"]
    data.captions = [f"a photo of a {vocabulary[i % 4]}" for i in numbers.tolist()]
    EmbeddingCache.build(texts, data, tmp_path / "cache", **SETTINGS)
    other = data_of(images, 0)
    other.captions = [*data.captions[1:], "a photo of a one"]
    updated = EmbeddingCache.build(texts, other, tmp_path / "cache", **SETTINGS)
    anew = EmbeddingCache.build(texts, other, tmp_path / "anew", **SETTINGS)
    assert files(tmp_path / "cache") == files(tmp_path / "anew") and torch.equal(updated.whole(), anew.whole())


@pytest.mark.parametrize("change", [dict(shard_rows=9), dict(dtype="float16"), dict(batch_size=5)], ids=str)
def test_other_settings_are_refused_and_the_cache_stays(guide, images, tmp_path, change):
    EmbeddingCache.build(guide[0], data_of(images, 0), tmp_path / "cache", **SETTINGS)
    before = files(tmp_path / "cache")
    changed(images)
    with pytest.raises(ValueError, match="holds another cache.*2 images are new|holds another cache.*images are new"): EmbeddingCache.build(guide[0], data_of(images, 0), tmp_path / "cache", **(SETTINGS | change))
    with pytest.raises(ValueError, match="holds another cache"): EmbeddingCache.build(LabelGuide(0.1), data_of(images, 0), tmp_path / "cache", **SETTINGS)
    assert files(tmp_path / "cache") == before


def test_rows_that_depend_on_the_whole_data_set_are_not_kept(images, tmp_path):
    EmbeddingCache.build(LabelGuide(0.0), data_of(images, 0), tmp_path / "cache", **SETTINGS)
    changed(images)
    with pytest.raises(ValueError, match="holds another cache.*images are new"): EmbeddingCache.build(LabelGuide(0.0), data_of(images, 0), tmp_path / "cache", **SETTINGS)


def test_killed_updates(guide, images, tmp_path):
    "`chs embed` of a changed folder, killed at some moments: the old cache can be opened, or the same command goes on; in the end the bytes are those of a new cache."
    def command(out): return chs("embed", "--data", f"folder:{images}", "--guide", f"captions:{guide[1]}", "--size", 32, "--out", out, "--shard_rows", 8, "--batch_size", 4, "--device", "cpu", "--workers", 0)
    assert completed(command(tmp_path / "cache")).returncode == 0
    changed(images)
    done = completed(command(tmp_path / "anew"))
    assert done.returncode == 0, done.stderr
    chance, cache = random.Random(0), tmp_path / "cache"
    for _ in range(4):
        with started(command(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            wait_until(lambda: (cache / ".update").exists(), run)
            time.sleep(0.2 * chance.random())
            kill(run)
        try: EmbeddingCache.load(cache).verify()
        except FileNotFoundError as e: assert "unfinished" in str(e)
    rest = completed(command(cache))
    assert rest.returncode == 0, rest.stderr
    assert files(cache) == files(tmp_path / "anew")


@pytest.mark.parametrize("moved", range(5))
def test_killed_while_the_new_cache_takes_the_old_one_s_place(guide, images, tmp_path, moved):
    "Every moment of the exchange: it goes on, and never opens a mixture."
    data = data_of(images, 0)
    EmbeddingCache.build(guide[0], data, tmp_path / "cache", **SETTINGS)
    changed(images)
    shutil.copytree(tmp_path / "cache", tmp_path / "before")
    new = data_of(images, 0)
    EmbeddingCache.build(guide[0], new, tmp_path / "anew", **SETTINGS)
    from clip_help_simclr.guides import update
    replace, count = update.os.replace, [0]
    def fails(source, target):
        if ".update" in str(source) and "partial" not in str(source):
            if count[0] == moved: raise KeyboardInterrupt
            count[0] += 1
        return replace(source, target)
    with patch.object(update.os, "replace", fails), pytest.raises(KeyboardInterrupt): EmbeddingCache.build(guide[0], new, tmp_path / "cache", **SETTINGS)
    with pytest.raises(FileNotFoundError, match="unfinished"): EmbeddingCache.load(tmp_path / "cache")
    EmbeddingCache.build(guide[0], new, tmp_path / "cache", **SETTINGS)
    assert files(tmp_path / "cache") == files(tmp_path / "anew")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"shards": 5}', '{"shards": [{"file": "../mine.txt"}]}', None], ids=str)
def test_a_crafted_update_reaches_nothing(guide, images, tmp_path, text):
    data = data_of(images, 0)
    EmbeddingCache.build(guide[0], data, tmp_path / "cache", **SETTINGS)
    (tmp_path / "mine.txt").write_text("mine")
    staged = tmp_path / "cache" / ".update"
    staged.mkdir()
    if text is None: text = (tmp_path / "cache" / "manifest.json").read_text().replace("rows-00000.safetensors", "../mine.txt")
    (staged / "manifest.json").write_text(text)
    before = {name: content for name, content in files(tmp_path).items()}
    with pytest.raises(ValueError, match="no update that this package has begun"): EmbeddingCache.build(guide[0], data, tmp_path / "cache", **SETTINGS)
    assert files(tmp_path) == before


def test_a_change_in_the_middle_of_a_file(guide, tmp_path):
    "Of a format without compression, whose length, beginning and end stay as they are: a row is not kept for them."
    kind = tmp_path / "images" / "kind"
    kind.mkdir(parents=True)
    for i in range(9): Image.fromarray(np.full((96, 96, 3), 20 * i, np.uint8)).save(kind / f"{i}.bmp")
    EmbeddingCache.build(guide[0], data_of(tmp_path / "images", 0), tmp_path / "cache", **SETTINGS)
    raw = bytearray((kind / "4.bmp").read_bytes())
    raw[7000:21000] = bytes(14000)
    (kind / "4.bmp").write_bytes(raw)
    picture(kind / "x.png", 3)  # and one more, so that the data set is another
    data = data_of(tmp_path / "images", 0)
    EmbeddingCache.build(guide[0], data, tmp_path / "cache", **SETTINGS)
    EmbeddingCache.build(guide[0], data, tmp_path / "anew", **SETTINGS)
    assert files(tmp_path / "cache") == files(tmp_path / "anew")
