"""clip-retrieval's folders, whole and broken."""
import numpy as np
import pandas as pd
import pytest
import torch

from clip_help_simclr.data import TensorSet
from clip_help_simclr.guides import EmbeddingCache, LabelGuide, clip_retrieval_cache

pytest.importorskip("pyarrow")


def data_of(ids):
    n = len(ids)
    return TensorSet(name="set", classes=("a",), labels=torch.zeros(n, dtype=torch.int64), captions=[""] * n, caption_source="none", size=4, ids=ids,
                     images=torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1).expand(n, 3, 4, 4).contiguous())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    for k in range(2):
        np.save(tmp_path / "img_emb" / f"img_emb_{k}.npy", np.arange(30, dtype=np.float32).reshape(10, 3) + 100 * k)
        pd.DataFrame(dict(key=[f"{k}{i:04d}" for i in range(10)])).to_parquet(tmp_path / "metadata" / f"metadata_{k}.parquet")
    return tmp_path


def test_rows_by_key(folder):
    cache = clip_retrieval_cache(folder, data_of(["x.tar/10003", "x.tar/00000", "x.tar/none"]))
    assert cache[torch.tensor([0, 1])].tolist() == [[109, 110, 111], [0, 1, 2]]
    assert cache.missing.tolist() == [2]


def test_dots_and_capitals_belong_to_a_key(folder):
    for k in range(2): pd.DataFrame(dict(key=[f"A.{k}.{i}" for i in range(10)])).to_parquet(folder / "metadata" / f"metadata_{k}.parquet")
    assert clip_retrieval_cache(folder, data_of(["x.tar/A.1.2", "x.tar/A.0.2"]))[torch.tensor([0, 1])][:, 0].tolist() == [106, 6]
    for k in range(2): pd.DataFrame(dict(key=[f"{'aA'[i % 2]}{k}{i // 2}" for i in range(10)])).to_parquet(folder / "metadata" / f"metadata_{k}.parquet")
    assert clip_retrieval_cache(folder, data_of(["x.tar/A01", "x.tar/a01"]))[torch.tensor([0, 1])][:, 0].tolist() == [9, 6]


def rows(folder, array): np.save(folder / "img_emb" / "img_emb_1.npy", array)


BROKEN = {
    "Fortran's order": (lambda f: rows(f, np.asfortranarray(np.ones((10, 3), np.float32))), "Fortran"),
    "complex": (lambda f: rows(f, np.ones((10, 3), np.complex64)), "Expected float16 or float32"),
    "integers": (lambda f: rows(f, np.ones((10, 3), np.int64)), "Expected float16 or float32"),
    "doubles": (lambda f: rows(f, np.ones((10, 3))), "Expected float16 or float32"),
    "big-endian": (lambda f: rows(f, np.ones((10, 3), ">f4")), "Expected float16 or float32"),
    "one axis": (lambda f: rows(f, np.ones(10, np.float32)), "Expected float16 or float32"),
    "other width": (lambda f: rows(f, np.ones((10, 4), np.float32)), r"rows of \[3, 4\] numbers"),
    "other height": (lambda f: rows(f, np.ones((9, 3), np.float32)), "9 embeddings in img_emb_1.npy, but 10 rows of metadata"),
    "objects": (lambda f: np.save(f / "img_emb" / "img_emb_1.npy", np.array([{}], dtype=object), allow_pickle=True), "truncated or corrupt"),
    "no array": (lambda f: (f / "img_emb" / "img_emb_1.npy").write_bytes(b"junk"), "truncated or corrupt"),
    "empty file": (lambda f: (f / "img_emb" / "img_emb_1.npy").write_bytes(b""), "truncated or corrupt"),
    "no parquet": (lambda f: (f / "metadata" / "metadata_1.parquet").write_bytes(b"junk"), "no parquet file"),
    "no metadata": (lambda f: (f / "metadata" / "metadata_1.parquet").unlink(), "there is no .*metadata_1.parquet"),
    "no arrays": (lambda f: [path.unlink() for path in (f / "img_emb").iterdir()], "there is no img_emb"),
    "no column": (lambda f: [pd.DataFrame(dict(x=range(10))).to_parquet(f / "metadata" / f"metadata_{k}.parquet") for k in range(2)], "no image is named"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders(folder, what):
    spoil, says = BROKEN[what]
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=says): clip_retrieval_cache(folder, data_of(["x.tar/10003"]))


def test_foreign_files_are_no_arrays(folder):
    (folder / "img_emb" / "img_emb_x.npy").write_bytes(b"junk")
    assert len(clip_retrieval_cache(folder, data_of(["x.tar/10003"]))) == 1


@pytest.mark.parametrize("arguments, name", [((None, data_of(["a"])), "folder"), ((3, data_of(["a"])), "folder"), ((".", None), "data"), ((".", [1]), "data")])
def test_wrong_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: "): clip_retrieval_cache(*arguments)


def test_no_images(folder):
    with pytest.raises(ValueError, match="no images"): clip_retrieval_cache(folder, data_of([]))


@pytest.mark.parametrize("call, name", [
    (lambda c: EmbeddingCache.load(None), "folder"), (lambda c: EmbeddingCache.load(5), "folder"), (lambda c: EmbeddingCache.load(b"x"), "folder"), (lambda c: c.check(None), "data"), (lambda c: c.check(data_of(["a"] * 4), 5), "guide"),
    (lambda c: c.ids(99), "shard"), (lambda c: c.ids(-1), "shard"), (lambda c: c.ids(None), "shard"), (lambda c: c.to("banana"), "device"), (lambda c: c.to(None), "device"), (lambda c: c.neighbours("a"), "k"),
    (lambda c: c.neighbours(1, exact="no"), "exact"), (lambda c: EmbeddingCache.build(LabelGuide(), data_of(["a"] * 4), workers="x"), "workers"), (lambda c: EmbeddingCache.build(LabelGuide(), data_of(["a"] * 4), workers=-2), "workers")])
def test_wrong_arguments_of_a_cache(call, name):
    cache = EmbeddingCache(torch.eye(4), "rows", data_of(["a"] * 4).fingerprint)
    with pytest.raises(ValueError, match=f"^{name}: "): call(cache)


def test_a_table_of_neighbours_is_checked(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file
    data = data_of([str(i) for i in range(20)])
    class Rows(LabelGuide):
        def embed(self, data, batch_size=256, progress=True): return torch.randn(len(data), 4, generator=torch.Generator().manual_seed(0))
    cache = EmbeddingCache.build(Rows(), data, tmp_path / "cache", progress=False)
    numbers, cosines = cache.neighbours(1, device="cpu", progress=False)
    path = tmp_path / "cache" / "neighbours-1.safetensors"
    with safe_open(path, "pt") as f: head = f.metadata()
    for wrong in (dict(numbers=torch.full((3, 1), 99), cosines=torch.ones(3, 1)), dict(numbers=numbers), dict(numbers=numbers + 99, cosines=cosines), dict(numbers=numbers.float(), cosines=cosines)):
        save_file(wrong, path, head)
        assert torch.equal(cache.neighbours(1, device="cpu", progress=False)[0], numbers)
    save_file(dict(numbers=numbers.flip(0).contiguous(), cosines=cosines), path, {"neighbours": '{"x": 1}'})
    assert torch.equal(cache.neighbours(1, device="cpu", progress=False)[0], numbers)
