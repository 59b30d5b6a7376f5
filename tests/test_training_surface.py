"""Bad values for every field of `PretrainConfig` and every argument of the public functions of core, encoders and training: an error that begins with the name, before anything is done."""
import math
import sys
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from processes import completed

from clip_help_simclr import core, encoders, training
from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.training import PretrainConfig

WRONG_TYPES = [True, "0.1", "", [1], (1,), {}, {1: 2}, b"x", object(), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), 1j]
WHOLE = ("width", "projection", "views", "epochs", "batch_size", "chunk", "seed", "workers", "checkpoint_every", "keep_every", "log_every")
REAL = ("temperature", "lr", "weight_decay", "clip_norm", "warmup", "checkpoint_minutes")
TEXT = ("encoder", "pretrained", "strategy", "loss", "optimizer", "precision", "device", "tracker")
OPTIONAL = ("pretrained", "chunk", "clip_norm", "workers", "keep_every")
ZERO_IS_RIGHT = ("seed", "workers", "weight_decay", "warmup", "checkpoint_minutes")


def bad_values(name):
    "Values that a field must refuse."
    none = [] if name in OPTIONAL else [None]
    if name in WHOLE: return [*WRONG_TYPES, *none, -1, 1.5, 2.0, math.nan, math.inf, 10 ** 30, np.float64(3), *([] if name in ZERO_IS_RIGHT else [0])]
    if name in REAL: return [*WRONG_TYPES, *none, -1, -1e-9, math.nan, math.inf, -math.inf, 10 ** 400, np.float32("nan"), *([] if name in ZERO_IS_RIGHT else [0, 0.0])]
    if name in TEXT: return [*none, "", 0, 1.5, True, ["adamw"], b"adamw", np.array(["adamw"]), object(), *([] if name in ("encoder", "pretrained") else ["nonsense"])]
    if name == "compile": return [None, 0, 1, "yes", [True], np.bool_(True)]
    if name == "augment": return [None, 3, "SimCLR", dict(size=32), [SimCLRViews()], SimCLRViews, torch.zeros(3)]
    raise AssertionError(f"the field {name} is new: say which values are bad")


@pytest.mark.parametrize("name", [f.name for f in fields(PretrainConfig)])
def test_every_field(name):
    for value in bad_values(name):
        with pytest.raises(ValueError) as error: PretrainConfig(**{name: value})
        message = str(error.value)
        assert message.startswith(f"{name}: "), (value, message)
        assert "\n" not in message and len(message) < 900, (value, message)


@pytest.mark.parametrize("name, value", [
    ("strategy", "AddNewPositive(weight='a')"), ("strategy", "AddNewPositive(weight=5)"), ("strategy", "DropFalsePositive(ratio=None)"), ("strategy", "AddNewPositive("), ("strategy", "AddNewPositive +"),
    ("strategy", "__import__('os')"), ("strategy", "AddNewPositive(nonsense=1)"), ("width", 100_000_000), ("width", 5000), ("projection", 10 ** 7), ("views", 1), ("views", 10 ** 6), ("chunk", 1),
    ("warmup", 1), ("warmup", 1.5), ("encoder", "resnet18.a1_in1k"), ("device", "cuda:x"), ("seed", 2 ** 63), ("precision", "int8"), ("optimizer", "adam"), ("tracker", "mlflow")])
def test_particular_values(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "): PretrainConfig(**{name: value})


def test_good_values():
    config = PretrainConfig(width=np.int64(4), lr=np.float32(0.5), seed=np.uint8(3), clip_norm=1, checkpoint_minutes=0, weight_decay=0, workers=0, warmup=0)
    assert all(type(getattr(config, name)) in (int, float, type(None)) for name in WHOLE + REAL)
    assert config == replace(config, width=4, lr=0.5, seed=3) and asdict(config)["seed"] == 3
    assert PretrainConfig(encoder="resnet18.a1_in1k", pretrained="timm").encoder == "resnet18.a1_in1k"


def test_the_flags_load_no_pandas():
    "`chs pretrain --help` needs the fields of the configuration, and nothing of what a run needs."
    code = ("import sys; from jsonargparse import ArgumentParser; from clip_help_simclr.training import PretrainConfig; parser = ArgumentParser(); "
            "parser.add_class_arguments(PretrainConfig); parser.parse_args(['--lr', '0.1']); print({'pandas', 'accelerate', 'matplotlib'} & set(sys.modules))")
    done = completed([sys.executable, "-c", code])
    assert done.returncode == 0 and done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("call, name", [
    (lambda: core.pick("colour", ["red"], {"red": 1}), "unknown colour"),
    (lambda: core.scale(3), "unknown scale"),
    (lambda: core.generator("0"), "seed"), (lambda: core.generator(0.5), "seed"), (lambda: core.generator(None), "seed"),
    (lambda: core.pick_device(None), "device"), (lambda: core.pick_device(0), "device"), (lambda: core.pick_device(np.array(["cpu"])), "device"),
    (lambda: core.digest([1, 2]), "parts"), (lambda: core.digest({}), "parts"),
    (lambda: core.write_atomic("x", 3), "data"), (lambda: core.atomic_path("").__enter__(), "path"),
    (lambda: core.save_record("x", "chs", {}, object(), 0), "record"), (lambda: core.load_record("none.json"), "record"),
    (lambda: encoders.build_encoder(3), "encoder"), (lambda: encoders.build_encoder("convnet", "32"), "image_size"), (lambda: encoders.build_encoder("convnet", 32, None), "width"),
    (lambda: encoders.build_encoder("convnet", channels=[3]), "channels"), (lambda: encoders.build_encoder("convnet", pretrained=3), "pretrained"),
    (lambda: encoders.Projector(None), "in_features"), (lambda: encoders.Projector(8, out_features=10 ** 9), "out_features"),
    (lambda: training.build_optimizer(torch.nn.Linear(1, 1), "adamw", "0.1", 0), "lr"), (lambda: training.build_optimizer(torch.nn.Linear(1, 1), "adamw", 0.1, None), "weight_decay"),
    (lambda: training.build_optimizer(torch.nn.Identity(), "adamw", 0.1, 0), "model"), (lambda: training.build_optimizer(torch.nn.Linear(1, 1), ["adamw"], 0.1, 0), "unknown optimizer"),
    (lambda: training.warmup_cosine(0, 0, 0.1), "steps"), (lambda: training.warmup_cosine(-1, 10, 0.1), "step"), (lambda: training.warmup_cosine(0, 10, 1), "warmup"),
    (lambda: training.pick_precision("int8", torch.device("cpu")), "precision"),
    (lambda: training.measure(torch.zeros(5, 3), 2), "z"), (lambda: training.measure(torch.zeros(4, 3), 0), "views"),
    (lambda: training.contrastive_gradients(torch.nn.Identity(), torch.zeros(4, 3), torch.sum, 0), "chunks"),
    (lambda: training.pretrain(None, None), "config"), (lambda: training.pretrain(PretrainConfig(), None), "data"), (lambda: training.pretrain(PretrainConfig(), [1, 2]), "data"),
    (lambda: training.dry_run(PretrainConfig(), np.zeros((4, 3, 32, 32))), "data"),
    (lambda: training.read_checkpoint("nowhere"), "checkpoint"), (lambda: training.load_encoder("nowhere"), "checkpoint"),
    (lambda: training.export_encoder("nowhere", ""), "folder"), (lambda: training.export_encoder("nowhere", "  "), "folder"), (lambda: training.export_encoder("nowhere", None), "folder"),
])
def test_public_functions(call, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error: call()
    assert str(error.value).startswith(name), str(error.value)
    assert not any(tmp_path.iterdir())
