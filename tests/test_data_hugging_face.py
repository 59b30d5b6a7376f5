"""Hugging Face datasets with the columns that people have, read from disk without a network."""
import os
import warnings

import pytest
import torch
from PIL import Image

datasets = pytest.importorskip("datasets")
from clip_help_simclr.data import load_data  # noqa: E402

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def made(columns, features, n=4):
    rows = dict(image=[Image.new("L", (4, 4), k) for k in range(n)]) | columns
    return datasets.Dataset.from_dict(rows, datasets.Features(image=datasets.Image(), **features))


def load(path, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = load_data(f"hf:{path}", size=4, memory=0, workers=0, **options)
    return train, test, [str(w.message) for w in caught]


def saved(tmp_path, train, test=None):
    folder = str(tmp_path / "set")
    datasets.DatasetDict(dict(train=train, test=train if test is None else test)).save_to_disk(folder)
    return folder


TEXT, WHOLE, CLASS = datasets.Value("string"), datasets.Value("int64"), datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize("column, feature, values, classes, labels", [
    ("label", WHOLE, [2, 0, None, -1], ("0", "1", "2"), [2, 0, -1, -1]),
    ("labels", datasets.Value("uint8"), [1, 0, 1, None], ("0", "1"), [1, 0, 1, -1]),
    ("label", WHOLE, [10**12, 5, None, 5], ("5", str(10**12)), [1, 0, -1, 0]),
    ("label", TEXT, ["dog", "cat", None, ""], ("cat", "dog"), [1, 0, -1, -1]),
    ("label", datasets.Value("large_string"), ["b", "a", "b", "b"], ("a", "b"), [1, 0, 1, 1]),
    ("label", datasets.Value("bool"), [True, False, None, True], ("0", "1"), [1, 0, -1, 1]),
    ("kind", CLASS, [1, None, 0, -1], ("cat", "dog"), [1, -1, 0, -1]),
    ("other", WHOLE, [1, 2, 3, 4], (), [-1] * 4),
])
def test_label_columns(tmp_path, column, feature, values, classes, labels):
    train, test, said = load(saved(tmp_path, made({column: values}, {column: feature})))
    assert (train.classes, train.labels.tolist(), test.labels.tolist(), said) == (classes, labels, labels, [])
    assert train.batch(torch.arange(4))[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_words_of_both_parts(tmp_path):
    train, test = (made(dict(label=words), dict(label=TEXT), 2) for words in (["b", "d"], ["a", "b"]))
    train, test, _ = load(saved(tmp_path, train, test))
    assert (train.classes, test.classes, train.labels.tolist(), test.labels.tolist()) == (("a", "b", "d"),
            ) * 2 + ([1, 2], [0, 1])


def test_the_user_chooses(tmp_path):
    fine = datasets.ClassLabel(names=["owl", "bee", "oak"])
    path = saved(tmp_path, made(dict(fine=[2, 1, 0, 0], coarse=[1, 0, 0, 0], word=list("abca")),
                                dict(fine=fine, coarse=CLASS, word=TEXT)))
    with pytest.raises(ValueError, match=r"2 columns of class labels: fine, coarse. Choose one, as in hf:PATH\?label=fine"):
        load(path)
    for column, classes in (("fine", ("owl", "bee", "oak")), ("coarse", ("cat", "dog")), ("word", ("a", "b", "c"))):
        assert load(f"{path}?label={column}")[0].classes == classes
    with pytest.raises(ValueError, match="unknown column of labels 'corse'. Did you mean 'coarse'"):
        load(f"{path}?label=corse")


def test_labels_of_other_kinds(tmp_path):
    train, _, said = load(saved(tmp_path, made(dict(label=[0.5] * 4), dict(label=datasets.Value("float32")))))
    assert train.classes == () and len(said) == 1 and "the column label of set holds" in said[0]
    with pytest.raises(ValueError, match="the column label of set holds -7"):
        load(saved(tmp_path / "b", made(dict(label=[0, 1, -7, 0]), dict(label=WHOLE))))


def test_captions(tmp_path):
    train, _, _ = load(saved(tmp_path, made(dict(text=["a", None, " ", "b "]), dict(text=TEXT))))
    assert (train.captions, train.caption_source) == (["a", "", "", "b "], "column text")
    train, _, _ = load(saved(tmp_path / "b",
                             made(dict(captions=[["a", "b"], [], ["c"], None]),
                                  dict(captions=datasets.Sequence(TEXT)))))
    assert train.captions == ["a", "", "c", ""]
    with pytest.raises(ValueError, match="the column caption of set holds 3"):
        load(saved(tmp_path / "c", made(dict(caption=[3] * 4), dict(caption=WHOLE))))


def test_train_alone_and_more_splits(tmp_path):
    part = made(dict(label=[0] * 30), dict(label=WHOLE), 30)
    for k, splits in enumerate((dict(train=part), dict(everything=part))):
        datasets.DatasetDict(splits).save_to_disk(str(tmp_path / f"{k}"))
        train, test, said = load(tmp_path / f"{k}")
        assert len(train) + len(test) == 30 and len(said) == 1 and "held out for testing" in said[0]
    few, more = part.select(range(2)), part.select(range(3))
    datasets.DatasetDict(dict(Train=part, validation=few, test=more,
                              unsupervised=few)).save_to_disk(str(tmp_path / "four"))
    train, test, said = load(tmp_path / "four")
    assert (len(train), len(test), len(said)) == (30, 3, 1) and "left out: validation, unsupervised" in said[0]
    datasets.DatasetDict(dict(a=part, b=part)).save_to_disk(str(tmp_path / "ab"))
    with pytest.raises(ValueError, match=r"has the splits \['a', 'b'\]"): load(tmp_path / "ab")


def test_null_images(tmp_path):
    part = made(dict(image=[Image.new("L", (4, 4), 7), None], label=[0, 1]), dict(label=WHOLE), 2)
    train, _, _ = load(saved(tmp_path, part))
    assert list(train.read(torch.arange(2))[1]) == [1] and "the row has no image" in train.read(torch.arange(2))[1][1]


def test_two_columns_of_images(tmp_path):
    part = made(dict(mask=[Image.new("L", (4, 4), 200)] * 4), dict(mask=datasets.Image()))
    train, _, said = load(saved(tmp_path, part))
    assert train[3].image[0, 0, 0] == 3 and len(said) == 1 and "image is taken, not mask" in said[0]


def test_parquet(tmp_path):
    part = made(dict(label=[1, 0, 1, 1], text=list("abcd")), dict(label=CLASS, text=TEXT))
    os.makedirs(tmp_path / "typed")
    for split in ("train", "test"): part.to_parquet(str(tmp_path / "typed" / f"{split}-00000.parquet"))
    train, test, said = load(tmp_path / "typed")
    assert (train.classes, train.labels.tolist(), test.captions, said) == (("cat", "dog"), [1, 0, 1, 1],
            list("abcd"), [])
    assert train.batch(torch.arange(4))[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    import pandas as pd
    raw = [row for row in part.cast_column("image", datasets.Image(decode=False))]
    os.makedirs(tmp_path / "raw")
    pd.DataFrame(dict(image=[r["image"]["bytes"] for r in raw],
                      label=[1, 0, 1, 1])).to_parquet(tmp_path / "raw" / "train.parquet")
    train, test, _ = load(tmp_path / "raw")
    assert sorted(train.batch(torch.arange(len(train)))[:, 0, 0,
                                                        0].tolist() + test.batch(torch.arange(len(test)))[:, 0,
                                                                0, 0].tolist()) == [0, 1, 2, 3]
    os.makedirs(tmp_path / "struct")
    pd.DataFrame(dict(image=[dict(bytes=r["image"]["bytes"], path=None) for r in raw],
                      label=[1, 0, 1, 1])).to_parquet(tmp_path / "struct" / "train.parquet")
    assert sum(len(p) for p in load(tmp_path / "struct")[:2]) == 4


def test_image_folder(tmp_path):
    for split in ("train", "test"):
        for k, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("L", (4, 4), 50 + k).save(tmp_path / "data" / split / name / "1.png")
    train, test, said = load(tmp_path / "data")
    assert (train.classes, sorted(train.labels.tolist()), len(test), said) == (("cat", "dog"), [0, 1], 2, [])
    assert sorted(train.batch(torch.arange(2))[:, 0, 0, 0].tolist()) == [50, 51]


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", "nobody/has-this"):
        with pytest.raises(FileNotFoundError,
                           match="is neither a folder of save_to_disk, of parquet files or of images"):
            load(path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(FileNotFoundError, match="is neither a folder"): load(tmp_path / "broken")
    with pytest.raises(ValueError, match="has no column of images, only"):
        load(saved(tmp_path, datasets.Dataset.from_dict(dict(a=[1]))))
