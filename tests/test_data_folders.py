"""Folders as users have them: where captions lie, how splits are called, what is left out."""
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip_help_simclr.data import image_folder


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (9, 9, 9)).save(path, "PNG")


def make(root, *files):
    for file in files: picture(Path(root, file))
    return Path(root)


def load(root, **options):
    "The data set, and what was said."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = image_folder(root, 4, memory=0, **options)
    return train, test, [str(w.message) for w in caught]


FOUR = ["train/cat/x.png", "train/dog/y.png", "test/cat/z.png", "test/dog/w.png"]
CAPTIONS = dict(zip(FOUR, ("a", "b", "c", "d")))


def captions(root):
    train, test, said = load(root)
    found = {f"train/{i}": c for i, c in zip(train.ids, train.captions)} | {f"test/{i}": c for i,
            c in zip(test.ids, test.captions)}
    return found, (train.caption_source, test.caption_source), said


def table(path, rows, kind="csv", header="file_name,text", **encoding):
    lines = [f"{name},{text}" for name, text in rows] if kind == "csv" else [json.dumps(dict(file_name=n,
            text=t)) for n, t in rows]
    Path(path, f"metadata.{kind}").write_text("\n".join([header] * (kind == "csv") + lines) + "\n", **encoding)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("where, name", [
    ("", lambda file: file), ("", lambda file: file.replace("/", "\\")), ("", lambda file: f"./{file}"),
    ("", lambda file: file.split("/", 1)[1]), ("", lambda file: file.split("/")[-1]),
    ("train test", lambda file: file), ("train test", lambda file: file.split("/", 1)[1]),
    ("train test", lambda file: file.split("/")[-1]),
    ("train/cat train/dog test/cat test/dog", lambda file: file.split("/")[-1]),
    ("train/cat train/dog test/cat test/dog", lambda file: file),
    ("train/cat train/dog test/cat test/dog", lambda file: file.split("/", 1)[1].replace("/", "\\")),
])
def test_places_and_names(tmp_path, kind, where, name):
    make(tmp_path, *FOUR)
    for folder in where.split() or [""]:
        table(tmp_path / folder, [(name(file), text) for file,
                                  text in CAPTIONS.items() if file.startswith(folder)], kind)
    assert captions(tmp_path) == (CAPTIONS, ("metadata file",) * 2, [])


def test_absolute_names_and_accents(tmp_path):
    make(tmp_path, *FOUR[1:], "train/cat/caf\u00e9.png")
    rows = [(str(tmp_path / "train/cat/cafe\u0301.png"), "composed otherwise"), (str(tmp_path / FOUR[1]), "b")]
    table(tmp_path, rows, encoding="utf-8-sig", header="File_Name, TEXT ")
    found, source, said = captions(tmp_path)
    assert (found["train/cat/caf\u00e9.png"], found[FOUR[1]], source, said) == ("composed otherwise", "b",
            ("metadata file", "none"), [])


def test_names_that_match_nothing(tmp_path):
    make(tmp_path, *FOUR)
    table(tmp_path, [(f"/elsewhere/{k}.png", "no") for k in range(234)])
    with pytest.raises(ValueError, match=r"0 of 234 names in .*metadata.csv' match, e.g. '/elsewhere/0.png'; an image is called e.g. 'train/cat/x.png'"):
        load(tmp_path)
    table(tmp_path, [*CAPTIONS.items(), ("gone.png", "g"), ("train/cat/../../test/dog/q.png", "h")])
    found, _, said = captions(tmp_path)
    assert found == CAPTIONS and len(said) == 1 and "2 of 6 names" in said[0] and "'gone.png'" in said[0]


def test_ambiguous_names(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png")
    table(tmp_path, [("cat/1.png", "which?")])
    with pytest.raises(ValueError, match="'cat/1.png' in .* may be 'test/cat/1.png' or 'train/cat/1.png'. Write names relative to"):
        load(tmp_path)
    table(tmp_path, [("1.png", "which?")])
    with pytest.raises(ValueError, match="may be"): load(tmp_path)


def test_rows_given_twice_and_tables_of_several_folders(tmp_path):
    make(tmp_path, *FOUR)
    table(tmp_path, [*CAPTIONS.items(), (FOUR[0], "another")])
    found, _, said = captions(tmp_path)
    assert found[FOUR[0]] == "another" and len(said) == 1 and "1 rows" in said[0] and "another caption" in said[0]
    table(tmp_path, CAPTIONS.items())
    table(tmp_path / "train", [("cat/x.png", "deeper")])
    assert captions(tmp_path)[0] == CAPTIONS | {FOUR[0]: "deeper"}


@pytest.mark.parametrize("content, says", [
    (b"file_name,text\ntrain/cat/x.png,caf\xe9\n",
     "not UTF-8 .byte 0xe9 at 34; Latin-1 or Windows-1252.*iconv -f WINDOWS-1252"),
    ("file_name,text\ntrain/cat/x.png,a\n".encode("utf-16"), "not UTF-8.*UTF-16"),
    ("file_name,text\ntrain/cat/x.png,a\n".encode("utf-16-le"), "not UTF-8.*UTF-16"),
    (b"train/cat/x.png,a cat\ntrain/dog/y.png,a dog\n", "header missing"),
    (b"file_name;text\ntrain/cat/x.png;a cat\n", "separator"),
    (b"file_name,text\ntrain/cat/x.png,a cat, asleep\n",
     "line 2 has 3 values, the header 2; put captions with commas in quotes"),
    (b"file_name,text\ntrain/cat/x.png\n", "line 2 has 1 values"),
    (b"", "has no rows"), (b"file_name,text\n", "has no rows"),
    (b"file_name,text\ntrain/cat/x.png,\ntrain/dog/y.png, \n", "are empty. Fill the column text"),
])
def test_broken_csv(tmp_path, content, says):
    make(tmp_path, *FOUR)
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"^data: .*metadata.csv.*{says}"): load(tmp_path)


@pytest.mark.parametrize("content, says", [
    (b'{"file_name": "train/cat/x.png", "text": "caf\xe9"}', "not UTF-8"),
    (b'[{"file_name": "x", "text": "y"}]', "line 1 holds no JSON object"),
    (b'{"file_name": "x", "text": ["y"]}', "line 1 holds 'x' and .'y'. where two texts are expected"),
    (b'{"file_name": 3, "text": "y"}', "line 1 holds 3"),
    (b'{"file_name": "x", "caption": "y"}', "line 1 has 'file_name, caption'"),
    (b'{"file_name": ', "JSONDecodeError"),
    (b"[" * 100_000, "cannot be read as captions"),
])
def test_broken_jsonl(tmp_path, content, says):
    make(tmp_path, *FOUR)
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=f"^data: .*metadata.jsonl.*{says}"): load(tmp_path)


def test_sidecars(tmp_path):
    make(tmp_path, *FOUR)
    (tmp_path / "train/cat/x.TXT").write_text("\ufeffwith a mark\n", encoding="utf-8")
    assert captions(tmp_path) == ({**dict.fromkeys(FOUR, ""), FOUR[0]: "with a mark"}, ("sidecar files", "none"), [])
    (tmp_path / "train/dog/y.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(ValueError, match="y.txt' is not UTF-8"): load(tmp_path)
    (tmp_path / "train/dog/y.txt").unlink()
    table(tmp_path, [(FOUR[1], "b")])
    found, _, said = captions(tmp_path)
    assert found[FOUR[0]] == "" and len(said) == 1 and "1 texts beside images" in said[0]


def test_texts_that_fit_no_image(tmp_path):
    make(tmp_path, *FOUR)
    (tmp_path / "train/cat/x.png.txt").write_text("named otherwise")
    found, source, said = captions(tmp_path)
    assert source == ("none", "none") and len(said) == 1 and "none of the 1 text files" in said[0]


@pytest.mark.parametrize("train, test", [
    ("train", "test"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"),
    ("train_images", "test_images"), ("images_train", "images_val"),
    ("train2017", "val2017"), ("Training", "Validation"), ("train", "valid"), ("trainset", "testset"),
    ("train-set", "test set"),
])
def test_names_of_splits(tmp_path, train, test):
    make(tmp_path, f"{train}/cat/a.png", f"{train}/dog/b.png", f"{test}/dog/c.png")
    first, second, said = load(tmp_path)
    assert (first.ids, first.classes, second.ids, second.labels.tolist(), said) == (["cat/a.png", "dog/b.png"],
            ("cat", "dog"), ["dog/c.png"], [1], [])


def test_splits_that_are_not_clear(tmp_path):
    make(tmp_path / "two", "Train/a/1.png", "training/a/1.png", "test/a/1.png")
    with pytest.raises(ValueError, match="has Train and training, which all mean train"):
        load(tmp_path / "two")
    make(tmp_path / "more", "train/a/1.png", "test/a/2.png", "val/a/3.png", "extra/a/4.png", "5.png")
    train, test, said = load(tmp_path / "more")
    assert (train.ids, test.ids, len(said)) == (["a/1.png"], ["a/2.png"], 1)
    assert "left out beside them: extra/, val/, 1 images" in said[0]
    make(tmp_path / "class", "Train/1.png", "Bus/2.png", "Car/3.png", "Car/4.png", "Car/5.png")
    train, test, said = load(tmp_path / "class")
    assert train.classes == ("Bus", "Car",
                             "Train") and "Train counts as a class" in said[0] and "held out" in said[1] and len(said) == 2
    make(tmp_path / "above", "set/train/a/1.png", "set/test/a/2.png", "set/test/a/3.png")
    said = load(tmp_path / "above")[2]
    assert "set/test, set/train count as classes or parts of them" in said[0]
    make(tmp_path / "only", "test/a/1.png")
    with pytest.raises(FileNotFoundError, match="has test/ but no train/"): load(tmp_path / "only")


@pytest.mark.parametrize("files", [["train/a/%d.png"], ["a/%d.png"], ["%d.png"]])
def test_a_fifth_is_held_out(tmp_path, files):
    make(tmp_path, *[files[0] % k for k in range(30)])
    train, test, said = load(tmp_path)
    assert len(train) + len(test) == 30 and len(said) == 1 and f"about a fifth, {len(test)} of 30, is held out for testing" in said[0]


def test_endings(tmp_path):
    make(tmp_path, *FOUR)
    for name in ("a.JPG", "b.jpeg", "c.jfif", "d.tif", "e.TIFF", "f.gif", "g.bmp", "h.webp", "i.ppm", "j.Png",
                 "k.tga", "l.jpe"):
        form = {"jfif": "JPEG", "jpg": "JPEG", "jpe": "JPEG", "tif": "TIFF"}.get(name[2:].lower(), name[2:].upper())
        Image.new("RGB", (6, 6)).save(tmp_path / "train/cat" / name, form)
    for name in ("1.psd", "2.psd", "3.PSD", "4.heic", "README", "5.HEIC"):
        (tmp_path / "train/dog" / name).write_bytes(b"?")
    for name in (".hidden.psd", "Thumbs.db"): (tmp_path / "train/dog" / name).write_bytes(b"?")
    (tmp_path / "test/dog/6.pdf").write_bytes(b"?")
    train, test, said = load(tmp_path)
    assert len(train) == 14 and train.read(torch.arange(14))[1] == {}
    assert len(said) == 1 and "skipped 7 files of" in said[0] and ".psd (3), .heic (2), " in said[0] and "without ending (1)" in said[0] and ".pdf (1)" in said[0]


def test_no_image_among_other_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.heic").write_bytes(b"?")
    with pytest.raises(FileNotFoundError, match=r"no images under .*, only .heic \(1\)"): load(tmp_path)


def test_links(tmp_path):
    root = make(tmp_path / "data", *FOUR, "train/owl/v.png")
    store = make(tmp_path / "store", "bee/1.png", "bee/2.png")
    (root / ".cache").mkdir()
    picture(root / ".cache" / "ant" / "3.png")
    links = {"train/cat/self": ".", "train/dog/up": "..", "train/all": "../..", "train/aaa": "owl",
             "train/bee": store / "bee", "train/bee2": store / "bee",
             "train/ant": root / ".cache" / "ant", "train/dog/two": "../cat", "train/cat/two": "../dog"}
    for link, target in links.items(): os.symlink(target, root / link, target_is_directory=True)
    train, test, _ = load(root)
    assert train.ids == ["ant/3.png", "bee/1.png", "bee/2.png", "cat/x.png", "dog/y.png", "owl/v.png"]
    assert test.ids == ["cat/z.png", "dog/w.png"]


def test_order_as_ever(tmp_path):
    "A folder's own files come before those of its subfolders, each sorted: the order that ids and labels had before."
    make(tmp_path, "train/b.png", "train/z/2.png", "train/z/10.png", "train/z/sub/1.png", "train/z-a/1.png",
         "train/a/9.png", "test/a/1.png")
    expected = []
    for folder, folders, files in os.walk(tmp_path / "train"):
        folders.sort()
        expected += [(Path(folder) / name).relative_to(tmp_path / "train").as_posix() for name in sorted(files)]
    assert load(tmp_path)[0].ids == expected


def test_names_that_are_no_unicode(tmp_path):
    for k in range(6): picture(tmp_path / os.fsdecode(f"caf\u00e9{k}.png".encode("latin-1")))
    train, test, _ = load(tmp_path)
    assert len(train) + len(test) == 6 and len(train.fingerprint) == 64
    for part in (train, test): assert part.read(torch.arange(len(part)))[1] == {}


def test_links_to_nothing(tmp_path):
    make(tmp_path, *FOUR)
    os.symlink("/nowhere/1.png", tmp_path / "train" / "cat" / "gone.png")
    train, _, said = load(tmp_path)
    assert train.ids[0] == "cat/gone.png" and said == []
    before = train.fingerprint # the same with a link to nothing as long as it is one
    assert "FileNotFoundError" in train.read(torch.tensor([0]))[1][0]
    picture(tmp_path / "train" / "there.png")
    os.unlink(tmp_path / "train" / "cat" / "gone.png")
    os.symlink("../there.png", tmp_path / "train" / "cat" / "gone.png")
    assert load(tmp_path)[0].fingerprint != before
