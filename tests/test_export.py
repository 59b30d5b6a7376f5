"""What `export_encoder` writes, what it never overwrites, and that it is whole or not there."""
import json
import os
import subprocess
import sys
from dataclasses import asdict
from unittest.mock import patch

import pytest
import torch

from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.encoders import build_encoder
from clip_help_simclr.training import PretrainConfig, build_model, build_optimizer, export, export_encoder, load_encoder, save_checkpoint


def checkpoint(folder, encoder="convnet", size=32, channels=3, seed=0):
    config = PretrainConfig(encoder=encoder, width=4, augment=SimCLRViews(size), seed=seed)
    model = build_model(config, size, channels)
    facts = dict(config=asdict(config), step=3, history=[dict(loss=1.0)], data="0f" * 32, data_name="digits", guide=None, channels=channels)
    path = folder / f"checkpoint-{seed + 1}.safetensors"
    save_checkpoint(path, model, build_optimizer(model, "sgd", 0.1, 0), facts)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return dict(convnet=checkpoint(folder), again=checkpoint(folder, seed=1), vit=checkpoint(folder, "vit_tiny_patch16_224", seed=2))


def contents(folder): return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name, text", [("README.md", "# My project"), ("model.safetensors", "weights of mine"), ("config.json", '{"architecture": "mine"}')])
def test_other_peoples_files_stay(made, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match=f"folder: .*{name}.*--overwrite"): export_encoder(made["convnet"], tmp_path)
    assert contents(tmp_path) == {name: text.encode()}
    export_encoder(made["convnet"], tmp_path, overwrite=True)
    assert sorted(contents(tmp_path)) == ["README.md", "model.safetensors"]


def test_its_own_are_replaced(made, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    export_encoder(made["vit"], tmp_path)
    assert sorted(contents(tmp_path)) == ["README.md", "config.json", "model.safetensors", "notes.txt"]
    export_encoder(made["convnet"], tmp_path)  # of timm's files none is left
    assert sorted(contents(tmp_path)) == ["README.md", "model.safetensors", "notes.txt"]
    first = contents(tmp_path)
    export_encoder(made["again"], tmp_path)
    assert contents(tmp_path)["model.safetensors"] != first["model.safetensors"]
    assert contents(tmp_path)["notes.txt"] == b"mine"


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_edited_since(made, tmp_path, name):
    export_encoder(made["vit"], tmp_path)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace("vit_tiny_patch16_224", "our_vit", 1))
    with pytest.raises(FileExistsError, match=f"holds {name}, which no export wrote, or which changed since"): export_encoder(made["vit"], tmp_path)
    (tmp_path / name).write_text(text + "more\n" if name == "README.md" else "[]")
    with pytest.raises(FileExistsError): export_encoder(made["vit"], tmp_path)


@pytest.mark.parametrize("copied", [False, True])
def test_fine_tuned_since(made, tmp_path, copied):
    "By a tool that keeps what a file says of itself, or not."
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    export_encoder(made["convnet"], tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as f: said = f.metadata()
    save_file({k: v + 1 for k, v in load_file(tmp_path / "model.safetensors").items()}, tmp_path / "model.safetensors", said if copied else dict(format="pt"))
    with pytest.raises(FileExistsError, match="model.safetensors"): export_encoder(made["convnet"], tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_whole_or_not_at_all(made, tmp_path, there):
    out = tmp_path / "out"
    if there: export_encoder(made["convnet"], out)
    before = contents(out) if there else None
    def full(path, data):
        raise OSError(28, "No space left on device")
    with patch.object(export, "write_atomic", full), pytest.raises(OSError, match="folder: .*cannot be written.*No space left"): export_encoder(made["again"], out)
    assert (contents(out) if there else out.exists()) == (before if there else False)
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if there else [])


def test_bad_folders(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for folder in ("", " ", None, 3, "file", tmp_path / "file"):
        with pytest.raises(ValueError, match="^folder: "): export_encoder(made["convnet"], folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_modes(made, tmp_path):
    before = os.umask(0o022)
    try: export_encoder(made["vit"], tmp_path / "out")
    finally: os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


def test_what_it_says(made, tmp_path):
    export_encoder(made["vit"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224" and config["pretrained_cfg"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    code = "import sys, timm; timm.create_model('local-dir:' + sys.argv[1], pretrained=True); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    x = torch.rand(2, 3, 32, 32)
    again = build_encoder("vit_tiny_patch16_224", 32, pretrained=str(tmp_path)).eval()
    torch.testing.assert_close(again(x), load_encoder(made["vit"])(x))


def test_timm_reads_it_without_torchs_help(made, tmp_path):
    "Newer versions of torch read safetensors by `torch.load`, which hid that timm before 1.0.26 cannot."
    import timm
    export_encoder(made["vit"], tmp_path)
    load = torch.load
    def older(file, *args, **kwargs):
        if str(file).endswith(".safetensors"): raise RuntimeError("invalid magic number; corrupt file?")
        return load(file, *args, **kwargs)
    x = torch.rand(2, 3, 32, 32)
    encoder = load_encoder(made["vit"])
    with patch.object(torch, "load", older): loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(loaded((x - encoder.mean) / encoder.std), encoder(x))
