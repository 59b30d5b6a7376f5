"""Tar archives as crawlers, WebDataset and hostile hands write them."""
import gzip
import io
import json
import tarfile
import warnings

import pytest
import torch
from PIL import Image

from clip_help_simclr.data import tar_shards


def picture(grey):
    file = io.BytesIO()
    Image.new("L", (4, 4), grey).save(file, "PNG")
    return file.getvalue()


def write(path, *samples):
    "An archive of (name, content); a content that is a number becomes a grey picture."
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            content = picture(content) if isinstance(content, int) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def load(pattern, **options):
    "Both parts as one (ids, greys, captions, labels), the classes, and what was said but for the fifth."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = tar_shards(pattern, 4, memory=0, **options)
    rows = {}
    for data in (train, test):
        greys = data.batch(torch.arange(len(data)))[:, 0, 0, 0].tolist() if len(data) else []
        rows |= dict(zip(data.ids, zip(greys, data.captions, data.labels.tolist())))
    said = [str(w.message) for w in caught if "held out for testing" not in str(w.message)]
    return rows, train.classes, said


def test_case_of_keys(tmp_path):
    path = write(tmp_path / "a.tar", ("A.jpg", 1), ("a.JPG", 2), ("A.txt", b"large"), ("a.TXT", b"small"),
                 ("dir/B.PNG", 3), ("dir/B.CLS", b" 2 \n"))
    assert load(path) == ({"a.tar/A": (1, "large", -1), "a.tar/a": (2, "small", -1), "a.tar/dir/B": (3, "", 2)},
                          ("0", "1", "2"), [])


def test_dots_in_keys(tmp_path):
    path = write(tmp_path / "a.tar", ("photo.v1.jpg", 1), ("photo.v1.txt", b"one"), ("photo.v2.jpg", 2),
                 ("photo.v2.cls", b"1"), ("x.2020.01.json", b'{"caption": "j"}'), ("x.2020.01.png", 3))
    assert load(path)[0] == {"a.tar/photo.v1": (1, "one", -1), "a.tar/photo.v2": (2, "", 1),
                             "a.tar/x.2020.01": (3, "j", -1)}


def test_several_files_of_a_sample(tmp_path):
    path = write(tmp_path / "a.tar", ("0.jpg", 1), ("0.seg.png", 9), ("0.cls", b"0"), ("1.input.jpg", 2),
                 ("1.cls", b"1"), ("2.png", 3), ("2.jpg", 8))
    rows, _, said = load(path)
    assert rows == {"a.tar/0": (1, "", 0), "a.tar/1.input": (2, "", 1), "a.tar/2": (3, "", -1)}
    assert len(said) == 1 and "2 samples have further files" in said[0] and "'0.seg'" in said[0]


def test_what_is_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("0.png", tarfile.REGTYPE), ("1.png", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE),
                           ("dir.png", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "0.png"
            content = picture(5)
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content))
        for name in ("3.psd", "4.npy", "5.npy", "6.txt", "7.json", "8.json", "._9.png"):
            tar.addfile(tarfile.TarInfo(name))
    rows, _, said = load(str(tmp_path / "a.tar"))
    assert rows == {"a.tar/0": (5, "", -1)}
    assert "skipped 5 files of a.tar: .npy (2), .png (link or special) (1), .jpg (link or special) (1), .psd (1)" in said[0]
    assert "3 samples of a.tar have no image and are left out, e.g. '6'" in said[1] and len(said) == 2


@pytest.mark.parametrize("written, classes, labels", [
    ([b"2", b"0"], ("0", "1", "2"), [2, 0]), ([b"-1", b"0"], ("0",), [-1, 0]),
    ([b"999999999999", b"7"], ("7", "999999999999"), [1, 0]),
    ([b"9" * 40, b"8" * 40], ("8" * 40, "9" * 40), [1, 0]),
    ([b"123456", b"-1"], ("123456",), [0, -1]),
])
def test_labels(tmp_path, written, classes, labels):
    path = write(tmp_path / "a.tar", *[(f"{k}.png", k) for k in range(2)],
                 *[(f"{k}.cls", w) for k, w in enumerate(written)])
    rows, found, _ = load(path)
    assert (found, [rows[f"a.tar/{k}"][2] for k in range(2)]) == (classes, labels)


def test_labels_of_both_parts(tmp_path):
    write(tmp_path / "train-0.tar", ("0.png", 1), ("0.cls", b"10000000"), ("1.png", 1), ("1.cls", b"30000000"))
    write(tmp_path / "test-0.tar", ("0.png", 1), ("0.cls", b"20000000"))
    rows, classes, _ = load(str(tmp_path))
    assert classes == ("10000000", "20000000", "30000000") and [label for _, _, label in rows.values()] == [0, 2, 1]


@pytest.mark.parametrize("name, content, says", [
    ("0.cls", b"cat", "label 'cat': expected a whole number"), ("0.cls", b"3.5", "label '3.5'"),
    ("0.cls", b"", "label ''"), ("0.cls", b"-2", "label -2"),
    ("0.cls", b"9" * 101, "label '999"), ("0.cls", b"d41d8cd98f00b204", "label 'd41d"),
    ("0.cls", b"\xff\xfe3", "label"), ("0.cls", b"1_000", "label '1_000'"),
    ("0.cls", b"1" * 5000, "has 5000 bytes; at most 1024"),
    ("0.json", b"[1, 2]", "the JSON is a list, not an object"), ("0.json", b"null", "the JSON is a NoneType"),
    ("0.json", b'{"label": null}', "label None"), ("0.json", b'{"label": 1.5}', "label 1.5"),
    ("0.json", b'{"label": true}', "label True"), ("0.json", b'{"label": [1]}', r"label \[1\]"),
    ("0.json", b'{"label": NaN}', "label nan"), ("0.json", b'{"caption": ["a"]}', "caption .* is not a text"),
    ("0.json", b"{", "metadata that cannot be read"), ("0.json", b'"\xff"', "metadata that cannot be read"),
    ("0.json", b"[" * 200_000, "metadata that cannot be read"),
    ("0.txt", b"caf\xe9", "text of sample '0' of .* is not UTF-8"),
    ("0.txt", b"x" * (2**20 + 1), "at most 1048576"),
])
def test_broken_metadata(tmp_path, name, content, says):
    path = write(tmp_path / "a.tar", ("0.png", 1), (name, content))
    with pytest.raises(ValueError, match=f"^data: (sample '0' of .*a.tar|'0.).*{says}"): load(path)


def test_json_labels(tmp_path):
    path = write(tmp_path / "a.tar", *[(f"{k}.png", k) for k in range(3)],
                 *[(f"{k}.json", json.dumps(v).encode()) for k,
                   v in enumerate([dict(label=1.0), dict(label="2", caption=None), dict(other=1)])])
    rows = load(path)[0]
    assert [rows[f"a.tar/{k}"] for k in range(3)] == [(0, "", 1), (1, "", 2), (2, "", -1)]


@pytest.mark.parametrize("names", [("train-0.tar", "test-0.tar"), ("set-Train-000.tar", "set-VAL-000.tar"),
                                   ("training_1.tar", "validation_1.tar"), ("train/0.tar", "test/0.tar"),
                                   ("Train/0.tar", "val/0.tar")])
def test_splits(tmp_path, names):
    for k, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, *[(f"{i}.png", k) for i in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = tar_shards(str(tmp_path), 4, memory=0)
    assert [d.batch(torch.arange(3))[:, 0, 0, 0].tolist() for d in (train, test)] == [[0] * 3, [1] * 3]


def test_splits_beside_others(tmp_path):
    for name in ("train-0", "test-0", "val-0", "extra"): write(tmp_path / f"{name}.tar", ("0.png", 1))
    assert "left out: extra.tar, val-0.tar" in load(f"{tmp_path}/*.tar")[2][0]
    with pytest.raises(ValueError, match="has 3 parts"): load("a::b::c")


def test_a_fifth(tmp_path):
    path = write(tmp_path / "a.tar", *[(f"{i}.png", 1) for i in range(20)])
    with pytest.warns(UserWarning, match="about a fifth, .* of 20, is held out for testing"):
        tar_shards(path, 4)


def header(name, size, kind=b"0"):
    "A tar header with any size, with its checksum."
    member = bytearray(tarfile.TarInfo(name).tobuf())
    member[124:136] = size
    member[156:157] = kind
    member[148:156] = b" " * 8
    member[148:156] = b"%06o\0 " % sum(member)
    return bytes(member)


def test_crafted(tmp_path):
    good = write(tmp_path / "good.tar", ("0.png", 1), ("1.png", 2))
    content = open(good, "rb").read()
    one = content[:1024]
    crafted = dict(
        empty=b"", words=b"no archive " * 100, gz=gzip.compress(content), zip=b"PK\x03\x04" + bytes(600),
        cut=content[:700], cut_later=content[:1024 + 512 + 20],
        huge=header("0.png", b"77777777777\0") + bytes(1024),
        far=header("0.png", b"\x80" + bytes(4) + b"\x7f" + b"\xff" * 6) + bytes(1024),
        negative=one + header("1.png", b"\xff" * 11 + b"\x00") + bytes(1024),
        long_name=header("0.png", b"77777777777\0", b"L") + bytes(1024),
        pax=header("0.png", b"\x80" + bytes(4) + b"\x7f" + b"\xff" * 6, b"x") + bytes(1024), joined=content + content,
    )
    for name, bad in crafted.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=f"^data: .*{name}.tar' (is not an uncompressed tar archive, or is truncated|goes on after its end)"):
            load(str(path))
    with pytest.raises(ValueError, match="It is packed with gzip"): load(str(tmp_path / "gz.tar"))
    (tmp_path / "unmarked.tar").write_bytes(one)
    rows, _, said = load(str(tmp_path / "unmarked.tar"))
    assert len(rows) == 1 and "lacks the mark of its end" in said[0]


def test_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no archive"): load(str(tmp_path))
    with pytest.raises(ValueError, match="names 10000000000 archives"): load("x-{0..9999999999}.tar")
    path = write(tmp_path / "a.tar", ("0.txt", b"only a text"))
    with pytest.warns(UserWarning, match="1 samples of a.tar have no image"), pytest.raises(FileNotFoundError,
            match="no images in 1 archives"):
        tar_shards(path)


def test_odd_folder_names(tmp_path):
    folder = tmp_path / "with [brackets] {1}"
    folder.mkdir()
    write(folder / "a.tar", ("0.png", 1), ("1.png", 1))
    assert len(load(str(folder))[0]) == 2


def test_other_archives_of_a_folder(tmp_path):
    write(tmp_path / "B.TAR", ("0.png", 1))
    write(tmp_path / "a.tar", ("0.png", 1))
    for name in ("c.tar.gz", "d.tar.gz", "e.tar.zst", "a_stats.json", "a.parquet"):
        (tmp_path / name).write_bytes(b"?")
    rows, _, said = load(str(tmp_path))
    assert set(rows) == {"B.TAR/0", "a.tar/0"} and len(said) == 1
    assert "skipped 3 files of" in said[0] and ".tar.gz (2), .tar.zst (1). Unpack" in said[0]
