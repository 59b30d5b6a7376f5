"""What the commands say and choose: sizes, unreadable images, class names as captions, warnings, results that are kept."""
import json
from pathlib import Path

import pytest
import torch

from clip_help_simclr import demo
from clip_help_simclr.cli import main
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import LabelGuide, OpenCLIPGuide


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    "A data set of two classes without captions, one image of which is broken."
    from PIL import Image
    draws = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("test", 16)):
        for k in range(count):
            path = tmp_path / "images" / part / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=draws)
            pixels[..., 0] = 255 * (k % 2)
            Image.fromarray(pixels.numpy()).save(path)
    (tmp_path / "images" / "train" / "a" / "0.png").write_bytes(b"no image")
    return "folder:images"


@pytest.fixture
def sizes(monkeypatch):
    "The sizes at which data sets are read."
    seen = []
    def loads(spec, **options):
        seen.append(options["size"])
        return load_data(spec, **options)
    monkeypatch.setattr("clip_help_simclr.data.load_data", loads)
    return seen


class Model(LabelGuide):
    "Stands for an open_clip model that wants images of 48 pixels."
    image_size = 48


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(OpenCLIPGuide, "from_spec", lambda rest, device: Model())


def test_sizes_of_embed(sizes, model, capsys):
    assert main(["embed", "--data", "shapes", "--guide", "openclip:some/model", "--out", "a"]) == 0
    assert sizes == [48]
    assert "warning" not in capsys.readouterr().err
    assert main(["embed", "--data", "shapes", "--guide", "openclip:some/model", "--size", "32", "--out", "b"]) == 0
    assert sizes == [48, 32]
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1 and lines[0].startswith("chs embed: warning: size: the guide openclip:some/model wants images of 48 pixels and gets 32")
    assert main(["embed", "--data", "shapes", "--guide", "labels", "--out", "c"]) == 0
    assert sizes[2:] == [None]  # as the data set has them


def test_sizes_of_audit(sizes, model, capsys):
    assert main(["audit", "--data", "shapes", "--guide", "openclip:some/model", "--sample", "200", "--batch_size", "64"]) == 0
    assert sizes == [48]


def test_sizes_of_training_and_probe(sizes, capsys):
    run = ["pretrain", "--data", "shapes", "--width", "4", "--epochs", "1", "--batch_size", "512", "--device", "cpu", "--tracker", "none", "--augment.size", "24", "--dry-run"]
    assert main(run) == 0
    assert main([*run, "--size", "16"]) == 0
    assert sizes == [24, 16]
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: size" in line]
    assert len(lines) == 1 and "views of 24 pixels are cropped from images of 16" in lines[0]
    assert main([*run[:-1], "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["probe", "--checkpoint", "run", "--data", "shapes"]) == 0
    assert sizes[-1] == 24 and "warning" not in capsys.readouterr().err
    assert main(["probe", "--checkpoint", "run", "--data", "shapes", "--size", "16"]) == 0
    assert "chs probe: warning: size: the encoder was trained on views of 24 pixels" in capsys.readouterr().err


def test_unreadable_images(folder, capsys):
    command = ["embed", "--data", folder, "--guide", "labels:0.1", "--size", "32", "--out", "rows"]
    assert main([*command, "--strict"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("chs embed: error: --data: ") and "0.png" in err[-1]
    assert not Path("rows").exists()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "1 of the images of" in out and "0.png" in out
    assert any(line.startswith("chs embed: warning: ") and "0.png" in line for line in err.splitlines())


def test_class_names_as_captions(folder, capsys, monkeypatch):
    monkeypatch.setattr("clip_help_simclr.guides.captions._STEPS", 20)  # of the caption guide
    assert main(["audit", "--data", folder, "--guide", "captions", "--size", "32", "--captioned", "1", "--batch_size", "8"]) == 0
    assert "captions: made of class names, which leaks the labels" in capsys.readouterr().out.splitlines()
    assert json.loads(Path("chs-audit/audit.json").read_text())["data"]["caption_source"] == demo.LEAK
    assert demo.LEAK in Path("chs-audit/audit.html").read_text(encoding="utf-8")
    for k in (1, 3): Path(f"images/train/b/{k}.txt").write_text("a cat" if k == 1 else "a dog")  # now there are captions
    assert main(["audit", "--data", folder, "--guide", "captions", "--size", "32", "--captioned", "1", "--batch_size", "8", "--out", "again"]) == 0
    assert "class names" not in capsys.readouterr().out


def test_finished_demo_keeps_its_probes(folder, capsys, monkeypatch):
    command = ["demo", "--data", folder, "--size", "16", "--epochs", "1", "--guide_epochs", "1", "--captioned", "1", "--seeds", "1", "--width", "4", "--device", "cpu", "--out", "out"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "captions: made of class names, which leaks the labels" in first.splitlines()
    record = json.loads(Path("out/results.json").read_text())
    assert record["results"]["guide"]["captions"] == demo.LEAK
    assert any("0.png" in name for name in record["results"]["unreadable"])
    def never(*args, **kwargs): raise AssertionError("probed again")
    for room in ("runs", "probes"): monkeypatch.setattr(f"clip_help_simclr.demo.{room}.probe_features", never)
    assert main(command) == 0
    again = capsys.readouterr().out
    table = lambda text: [line for line in text.splitlines() if "  " in line and line.split("  ")[0] in ("SimCLR", "AddNewPositive", "random encoder", "the guide itself")]
    assert table(again) == table(first) != []
    command[command.index("--seeds") + 1] = "2"
    with pytest.raises(AssertionError, match="probed again"): main(command)  # the new seed


def test_probe_names_its_numbers(capsys):
    assert main(["pretrain", "--data", "shapes", "--width", "4", "--epochs", "1", "--batch_size", "512", "--device", "cpu", "--tracker", "none", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["probe", "--checkpoint", "run", "--data", "shapes"]) == 0
    names = [line.rsplit(maxsplit=2)[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert names in (["linear", "few-shot (5 labels per class)", "kNN"], ["linear", "linear, mean over classes", "few-shot (5 labels per class)", "kNN"])


@pytest.mark.parametrize("channels", [1, 4])
def test_channels(folder, channels, capsys):
    run = ["--data", folder, "--size", "32", "--channels", str(channels)]
    assert main(["pretrain", *run, "--width", "4", "--epochs", "1", "--batch_size", "8", "--device", "cpu", "--tracker", "none", "--out", "run"]) == 0
    assert "1 of the images of" in capsys.readouterr().out
    assert main(["probe", "--checkpoint", "run", *run]) == 0
    capsys.readouterr()
    assert main(["probe", "--checkpoint", "run", "--data", folder]) == 2  # images of three channels
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("chs probe: error: --data: ") and f"(B, {channels}, H, W)" in err


def test_what_is_not_used_is_said(capsys):
    assert main(["embed", "--data", "shapes", "--guide", "labels", "--vocabulary", "texts.txt", "--out", "rows"]) == 2
    assert "error: --vocabulary: only the guide induced" in capsys.readouterr().err
    assert main(["embed", "--data", "shapes", "--guide", "labels", "--neighbours", "10000", "--out", "rows"]) == 2
    assert "error: --neighbours: expected fewer than the 8192 images" in capsys.readouterr().err
    assert not Path("rows").exists()
    run = ["pretrain", "--data", "shapes", "--width", "4", "--epochs", "1", "--batch_size", "512", "--device", "cpu", "--tracker", "none", "--dry-run"]
    assert main([*run, "--guide", "labels"]) == 0
    assert "chs pretrain: warning: guide: the strategy SimCLR uses none" in capsys.readouterr().err
