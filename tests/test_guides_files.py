"""What files of guides and caches say is checked before it is used: every field, with every bad value."""
import copy
import json
import shutil

import open_clip
import pytest
import torch

from clip_help_simclr.data import load_data
from clip_help_simclr.guides import CaptionGuide, EmbeddingCache, LabelGuide, TextInducedGuide, TextTowerGuide, read_vocabulary, vocabulary
from clip_help_simclr.guides.cache import _has_room
from clip_help_simclr.guides.clip_retrieval import _match

BAD = [None, True, -1, 0, 10**15, 10**400, 2.5, float("nan"), "", "a", "../secret.bin", "/etc/passwd", "hf-hub:org/name", [], [1], {}, {"a": 1}, [[[]]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = load_data("digits").train.subset(torch.arange(200))
    guide = CaptionGuide.train(data, share=1.0, epochs=1, device="cpu", progress=False)
    guide.save(folder / "guide.safetensors")
    EmbeddingCache.build(guide, data, folder / "cache", shard_rows=128, batch_size=64, progress=False)
    return folder, guide, data


def refused(action):
    try: action()
    except (ValueError, FileNotFoundError) as error: return str(error)
    return None


def mutants(value, path=()):
    """Each place of a JSON value, and the whole with each bad value there, or without it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield (*path, key)
        if isinstance(value[key], (dict, list)): yield from mutants(value[key], (*path, key))


def value_at(whole, path):
    for key in path: whole = whole[key]
    return whole


def changed(whole, path, new):
    whole = copy.deepcopy(whole)
    at = whole
    for key in path[:-1]: at = at[key]
    at[path[-1]] = new
    return whole


def read_and_use(folder):
    cache = EmbeddingCache.load(folder)
    assert len(cache) == 200
    cache[torch.arange(200)]
    cache.verify()


def test_every_field_of_a_manifest(made, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    shutil.copytree(made[0] / "cache", folder)
    (tmp_path / "secret.bin").write_bytes((folder / "rows-00000.safetensors").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    needed = ("format", "guide", "fingerprint", "images", "dtype", "shard_rows", "dim", "shards", "unreadable", "skipped")
    for path in mutants(manifest):
        for bad in BAD:
            (folder / "manifest.json").write_text(json.dumps(changed(manifest, path, bad)))
            said = refused(lambda: read_and_use(folder))
            if path[0] in ("images", "dim", "shards") and path[-1] not in ("ids_digest", "contents_digest") and bad != manifest.get(path[0]): assert said, (path, bad)
    for key in needed:
        (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        assert refused(lambda: read_and_use(folder)), key
    for text in ("[]", "null", "1", "{", "", "[" * 100_000):
        (folder / "manifest.json").write_text(text)
        assert refused(lambda: read_and_use(folder)), text[:5]


def parts(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:8 + length]), raw[8 + length:]


def write(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_every_field_of_a_shard_s_header(made, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(made[0] / "cache", folder)
    shard, manifest = folder / "rows-00000.safetensors", json.loads((folder / "manifest.json").read_text())
    header, body = parts(shard)

    def check(must):
        manifest["shards"][0]["bytes"] = shard.stat().st_size  # or its size alone would give it away
        (folder / "manifest.json").write_text(json.dumps(manifest))
        said = refused(lambda: read_and_use(folder))
        assert said or not must

    for path in mutants(header):
        for bad in BAD:
            if json.dumps(bad) == json.dumps(value_at(header, path)): continue
            write(shard, changed(header, path, bad), body)
            check(path[0] in ("rows", "ids"))
    for raw in (b"", b"\0" * 7, b"\xff" * 8, (10**12).to_bytes(8, "little") + b"{}", b"\2" + b"\0" * 7 + b"[]"):
        shard.write_bytes(raw)
        check(True)


def test_every_field_of_a_guide_s_header(made, tmp_path, monkeypatch):
    path = tmp_path / "guide.safetensors"
    header, body = parts(made[0] / "guide.safetensors")
    said = json.loads(header["__metadata__"]["caption_guide"])
    built = []
    original = open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda name, *a, **k: built.append(name) or original(name, *a, **k))
    for where in mutants(said):
        if where[0] == "facts" and len(where) > 1: continue
        for bad in BAD:
            if json.dumps(bad) == json.dumps(value_at(said, where)): continue
            header["__metadata__"]["caption_guide"] = json.dumps(changed(said, where, bad))
            write(path, header, body)
            answer = refused(lambda: CaptionGuide.load(path, "cpu"))
            assert answer or (where[0] == "facts" and isinstance(bad, dict)), (where, bad)
    assert len(built) <= 3  # facts that are another table
    more = copy.deepcopy(said)
    more["config"]["text_cfg"]["hf_model_name"] = "org/name"
    header["__metadata__"]["caption_guide"] = json.dumps(more)
    write(path, header, body)
    with pytest.raises(ValueError, match="its configuration is not"): CaptionGuide.load(path, "cpu")


def test_links_out_of_the_folder_are_refused(made, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(made[0] / "cache", folder)
    (folder / "rows-00000.safetensors").rename(tmp_path / "secret.safetensors")
    (folder / "rows-00000.safetensors").symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(ValueError, match="links out"): EmbeddingCache.load(folder)


def test_verify_covers_ids(made, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(made[0] / "cache", folder)
    shard = folder / "rows-00001.safetensors"
    raw = shard.read_bytes()
    shard.write_bytes(raw.replace(b'"150"', b'"151"'))
    with pytest.raises(ValueError, match="the ids in"): EmbeddingCache.load(folder).verify()


def test_look_ups_are_refused_alike_in_memory_and_on_disk(made):
    on_disk = EmbeddingCache.load(made[0] / "cache")
    assert on_disk.image_size == 32
    for cache in (on_disk, on_disk.to("cpu")):
        for bad in (torch.tensor([-1]), torch.tensor([200]), torch.tensor([0.5]), torch.tensor([True]), torch.tensor(3), torch.tensor([[1]]),
                    [-1], [1.5], 3, None, "a", slice(2), [None], torch.tensor([2**62])):
            with pytest.raises(IndexError, match="numbers"): cache[bad]
        assert torch.equal(cache[[3, 1]], cache[torch.tensor([3, 1], dtype=torch.int32)])
        assert cache[[]].shape == (0, on_disk.rows.shape[1])


def test_new_and_gone_images_are_named_and_leftovers_removed(made, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(made[0] / "cache", folder)
    _, guide, data = made
    other = data.subset(torch.arange(2, 200))
    with pytest.raises(ValueError, match="2 images are gone: "): EmbeddingCache.build(guide, other, folder, shard_rows=128, progress=False)
    (folder / "manifest.json").unlink()
    for name in (".tmpa1B2c3", ".rows-00000.safetensors.01234567.part"): (folder / name).write_bytes(b"left")
    EmbeddingCache.build(guide, data, folder, shard_rows=128, batch_size=64, progress=False)
    assert not list(folder.glob(".*"))


def test_images_without_knowledge_have_rows_of_zeros(made):
    _, guide, data = made
    some = copy.copy(data)
    some.captions = ["", *data.captions[1:]]
    for rows in (TextInducedGuide.from_captions(some).whole(), TextTowerGuide(guide).embed(some, progress=False)):
        assert (rows[0] == 0).all() and (rows[1:] != 0).any(1).all()


def test_bad_arguments_of_build(made, tmp_path):
    _, guide, data = made
    for bad in (dict(batch_size=0), dict(batch_size=None), dict(batch_size=1.5), dict(shard_rows=0), dict(shard_rows="a"), dict(dtype="int8"), dict(dtype=None)):
        with pytest.raises(ValueError, match=next(iter(bad))): EmbeddingCache.build(guide, data, tmp_path / "x", **bad)
    for wrong in (None, "captions", 3):
        with pytest.raises(ValueError, match="guide"): EmbeddingCache.build(wrong, data)
        with pytest.raises(ValueError, match="data"): EmbeddingCache.build(guide, wrong)
        with pytest.raises(TypeError, match="guide"): TextInducedGuide.zero_shot(wrong, data)
        with pytest.raises(TypeError, match="guide"): TextTowerGuide(wrong)
    with pytest.raises(ValueError, match="folder"): EmbeddingCache.build(guide, data, "")


def test_keys_of_mixed_case_match():
    import pandas as pd
    table = pd.DataFrame(dict(key=["A1", "b2", "a1"]))
    assert _match(["x.tar/b2", "x.tar/a1", "x.tar/A1"], table).tolist() == [1, 2, 0]
    assert _match(["x.tar/b2", "x.tar/c3"], pd.DataFrame(dict(key=["C3", "B2"]))).tolist() == [1, 0]


def test_a_gpu_without_room_leaves_the_rows_where_they_are(made, monkeypatch):
    cache = EmbeddingCache.load(made[0] / "cache")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    with pytest.warns(UserWarning, match="stay where they are"): assert cache.to("cuda") is cache
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    assert _has_room("cuda", cache.rows.shape)


@pytest.mark.parametrize("bad", ["a", None, float("nan"), [1], -1, True])
def test_bad_numbers_are_named(made, bad):
    _, guide, data = made
    with pytest.raises(ValueError, match="noise"): LabelGuide(noise=bad)
    with pytest.raises(ValueError, match="seed"): LabelGuide(seed=bad)
    with pytest.raises(ValueError, match="share"): CaptionGuide.train(data, share=bad, device="cpu")
    with pytest.raises(ValueError, match="k:"): EmbeddingCache.load(made[0] / "cache").neighbours(bad)
    with pytest.raises(ValueError, match="batch_size"): guide.embed(data, batch_size=bad)
    with pytest.raises(ValueError, match="size"): vocabulary(data.captions, size=bad)
    if bad is not None:
        with pytest.raises(ValueError, match="epochs"): CaptionGuide.train(data, epochs=bad, device="cpu")
    with pytest.raises(ValueError, match="captions"): vocabulary(bad)
    if not isinstance(bad, str):
        with pytest.raises(ValueError, match="vocabulary"): read_vocabulary(bad)
