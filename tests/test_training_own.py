"""What users bring: their own augmentation, grey images and images with a fourth channel, weights to start from, a limit on the gradient's norm; and data of which some images cannot be read."""
import json
import random
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from clip_help_simclr.core import generator
from clip_help_simclr.data import Batch, ImageSet, load_data
from clip_help_simclr.encoders import build_encoder
from clip_help_simclr.guides import EmbeddingCache, LabelGuide
from clip_help_simclr.losses import NTXent
from clip_help_simclr.training import (
    PretrainConfig, Run, build_model, checkpoints, contrastive_gradients, dry_run, export_encoder, feeding, load_encoder, pretrain,
    read_checkpoint)
from clip_help_simclr.training.views import draw_views, with_own_views

BASE = PretrainConfig(width=4, projection=8, epochs=2, batch_size=32, device="cpu", precision="float32", tracker="none", log_every=3)


@pytest.fixture(scope="module")
def data(): return load_data("digits").train.subset(torch.arange(160))


def weights(result): return result.model.state_dict()


def same(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def interrupted_at(step, error=KeyboardInterrupt):
    go_on = Run.train_step
    def one_step(run, batch):
        if run.step == step: raise error
        go_on(run, batch)
    return patch.object(Run, "train_step", one_step)


# ---------------------------------------------------------------- one's own augmentation

PIPELINE = v2.Compose([v2.RandomResizedCrop(24, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)])


def all_three(image):
    "A function that draws from torch, NumPy and Python."
    image = image[:, ::2, ::2].float() / 255
    return (image * (0.5 + 0.2 * torch.rand(1) + 0.2 * float(np.random.rand()) + 0.1 * random.random())).clamp(0, 1)


@pytest.mark.parametrize("augment, size", [(PIPELINE, 24), (all_three, 16)])
def test_own_augmentation(data, tmp_path, augment, size):
    config = replace(BASE, augment=augment, checkpoint_minutes=0)
    whole = pretrain(config, data, progress=False)
    assert same(weights(whole), weights(pretrain(config, data, progress=False)))
    with interrupted_at(7), pytest.raises(KeyboardInterrupt): pretrain(config, data, folder=tmp_path, progress=False)
    assert checkpoints(tmp_path)[-1].name == "checkpoint-7.safetensors"
    assert same(weights(whole), weights(pretrain(config, data, folder=tmp_path, progress=False)))
    record = json.loads((tmp_path / "record.json").read_text())["config"]["augment"]
    assert record["size"] == size and ("Compose(" in record["name"] if augment is PIPELINE else "all_three, code " in record["name"])
    with pytest.raises(ValueError, match="holds a run with other settings .augment was"): pretrain(replace(config, augment=v2.Compose([v2.CenterCrop(size)])), data, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds a run with other settings .augment was"): pretrain(replace(BASE, checkpoint_minutes=0), data, folder=tmp_path, progress=False)
    encoder, images = load_encoder(tmp_path), data.images[:3] / 255
    torch.testing.assert_close(encoder(images), whole.encoder(images))
    assert (export_encoder(tmp_path, tmp_path / "out") / "README.md").exists()


def test_own_augmentation_draws_the_same_for_a_share(data):
    config = with_own_views(replace(BASE, augment=all_three, batch_size=7), data, torch.arange(160))
    draw = lambda share: draw_views(config, data.images[:7].tensor_split(share[1])[share[0]], "views", 3, share, 2).unflatten(0, (2, -1))
    together = draw((0, 1))
    assert torch.equal(torch.cat([draw((k, 3)) for k in range(3)], 1), together)
    assert len(together.flatten(0, 1).flatten(1).unique(dim=0)) == 14


def test_own_augmentation_in_double_precision_and_with_neighbours(data):
    config = replace(BASE, augment=PIPELINE, precision="float64", views=3, strategy="AddNewPositive(pool='dataset')", epochs=1)
    assert weights(pretrain(config, data, LabelGuide(0.0), progress=False))["projector.0.weight"].dtype == torch.float64


def test_the_default_is_what_it_was(data):
    views = draw_views(BASE, data.images[:32], "views", 0, (0, 1), 2)
    assert torch.equal(views, BASE.augment(data.images[:32], generator(0, "views", 0), 2))


def test_a_module_level_seed_is_left_alone(data):
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    pretrain(replace(BASE, augment=all_three, epochs=1, batch_size=80), data, progress=False)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


# ---------------------------------------------------------------- other numbers of channels

class Pictures(ImageSet):
    "Images in memory that are neither red, green and blue nor a TensorSet; some may not be readable."
    def __init__(self, images, labels=None, broken=(), name="pictures"):
        n = len(images)
        super().__init__(name=name, classes=("a", "b"), labels=torch.full((n,), -1) if labels is None else labels, captions=[""] * n, caption_source="none", size=images.shape[-1])
        self.images, self.broken, self.fingerprint, self.channels = images, set(broken), f"{name} {tuple(images.shape)}", images.shape[1]
        self.unreadable = {}

    def read(self, numbers): return self.images[numbers], {n: "truncated" for n in numbers.tolist() if n in self.broken}
    def batch(self, numbers): return self.images[numbers]
    def subset(self, numbers): return Pictures(self.images[numbers], self.labels[numbers])


def noise(n, channels, size=32): return torch.randint(256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(channels))


def halves(image): return image[:, ::2, ::2]


@pytest.mark.parametrize("encoder", ["convnet", "resnet18"])
@pytest.mark.parametrize("channels", [1, 4])
def test_channels(channels, encoder, tmp_path):
    pictures = Pictures(noise(32, channels))
    config = replace(BASE, encoder=encoder, augment=halves, batch_size=16, epochs=1)
    result = pretrain(config, pictures, folder=tmp_path, progress=False)
    facts = read_checkpoint(tmp_path)[0]
    assert facts["channels"] == channels == result.encoder.channels
    x = pictures.images[:3] / 255
    torch.testing.assert_close(load_encoder(tmp_path)(x), result.encoder(x))
    out = export_encoder(tmp_path, tmp_path / "out")
    torch.testing.assert_close(build_encoder(encoder, 16, 4, channels=channels, pretrained=out).eval()(x), result.encoder(x))
    again = pretrain(config, pictures, folder=tmp_path, progress=False)
    assert same(weights(again), weights(result))
    with pytest.raises(ValueError, match="channels was|data was"): pretrain(config, Pictures(noise(32, 3)), folder=tmp_path, progress=False)


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_of_the_default_views(channels):
    pictures = Pictures(noise(200, channels), labels=torch.arange(200) % 2)
    assert "knn" in pretrain(replace(BASE, epochs=1), pictures, progress=False).history[0] or len(pictures) // 10 < 20


# ---------------------------------------------------------------- weights to start from

def test_start_from_own_weights(data, tmp_path):
    first = pretrain(replace(BASE, epochs=1, seed=4), data, folder=tmp_path / "first", progress=False)
    exported = export_encoder(tmp_path / "first", tmp_path / "exported")
    for source in (tmp_path / "first", checkpoints(tmp_path / "first")[-1], exported, exported / "model.safetensors"):
        model = build_model(replace(BASE, pretrained=str(source)), 32)
        assert same(model.encoder.state_dict(), first.model.encoder.state_dict())
        assert same(model.projector.state_dict(), build_model(BASE, 32).projector.state_dict())
    config = replace(BASE, pretrained=str(exported), checkpoint_minutes=0)
    whole = pretrain(config, data, progress=False)
    assert not same(weights(whole), weights(pretrain(BASE, data, progress=False)))
    with interrupted_at(3), pytest.raises(KeyboardInterrupt): pretrain(config, data, folder=tmp_path / "second", progress=False)
    (exported / "model.safetensors").unlink()  # a resumed run does not read them again
    assert same(weights(whole), weights(pretrain(config, data, folder=tmp_path / "second", progress=False)))
    assert json.loads((tmp_path / "second" / "record.json").read_text())["config"]["pretrained"] == str(exported)
    with pytest.raises(ValueError, match="pretrained was"): pretrain(BASE, data, folder=tmp_path / "second", progress=False)
    with pytest.raises(FileNotFoundError, match="^pretrained: "): pretrain(config, data, progress=False)


def test_start_from_weights_of_another_shape(data, tmp_path):
    pretrain(replace(BASE, epochs=1), data, folder=tmp_path, progress=False)
    for change in (dict(width=8), dict(encoder="resnet18")):
        with pytest.raises(ValueError, match="^pretrained: the weights in .* do not fit"): pretrain(replace(BASE, pretrained=str(tmp_path), **change), data, progress=False)


def test_start_from_timm(data, tmp_path):
    import timm
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    config = replace(BASE, encoder="vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained="timm", epochs=1, batch_size=80)
    def weights_of_timm(*args, **kwargs): return {k: v.clone() for k, v in state.items()}
    with patch("timm.models._builder.load_state_dict_from_hf", weights_of_timm), patch("clip_help_simclr.encoders._connected", lambda: True):
        started = build_model(config, 32).encoder
        result = pretrain(config, data, folder=tmp_path, progress=False)
    assert same(started.backbone.state_dict(), state) and started.mean.flatten().tolist() == [0.5] * 3
    facts = read_checkpoint(tmp_path)[0]
    assert facts["mean"] == [0.5] * 3 and facts["config"]["encoder"] == config.encoder
    x = data.images[:3] / 255
    torch.testing.assert_close(load_encoder(tmp_path)(x), result.encoder(x))
    out = export_encoder(tmp_path, tmp_path / "out")
    torch.testing.assert_close(timm.create_model(f"local-dir:{out}", pretrained=True).eval()(2 * x - 1), result.encoder(x))
    def never(*args, **kwargs): raise AssertionError("a finished run fetches nothing")
    with patch("timm.models._builder.load_state_dict_from_hf", never): assert same(weights(pretrain(config, data, folder=tmp_path, progress=False)), weights(result))


# ---------------------------------------------------------------- the gradient's norm

@pytest.mark.parametrize("chunk", [None, 22])
def test_clipped_gradient_is_torchs(data, chunk):
    "One step of SGD without momentum's history: the weights move by lr times the clipped gradient of the whole batch."
    config = replace(BASE, clip_norm=0.01, optimizer="sgd", lr=1.0, weight_decay=0, warmup=0, epochs=1, batch_size=160, precision="float64", chunk=chunk, log_every=1)
    result = pretrain(config, data, progress=False)
    model = build_model(config, 32).double()
    run = Run(config, data)
    batch = next(run.batches(0))
    views = draw_views(config, batch.images, "views", 0, (0, 1), 2)
    loss_fn = NTXent(config.temperature, None, 2)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    contrastive_gradients(model, views, loss_fn, run.feed.chunks)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert norm > 0.01
    for name, p in model.named_parameters():
        moved = before[name] - dict(result.model.named_parameters())[name]
        torch.testing.assert_close(moved, 1.9 * p.grad, rtol=1e-6, atol=1e-9)  # Nesterov's first step: (1 + 0.9) times
    assert result.history[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-6)


def test_a_large_limit_changes_nothing(data):
    assert same(weights(pretrain(BASE, data, progress=False)), weights(pretrain(replace(BASE, clip_norm=1e6), data, progress=False)))
    assert "gradient_norm" not in pretrain(replace(BASE, epochs=1), data, progress=False).history[0]


# ---------------------------------------------------------------- images that cannot be read

def leaving_out(data, batch_size, *, among=None, generator=None, drop_last=False, device=None, workers=None, skip=0, share=(0, 1), companion=None):
    "`data.batches` by its contract: a batch holds what could be read; an empty one is left out."
    among = torch.arange(len(data)) if among is None else among
    order = among if generator is None else among[torch.randperm(len(among), generator=generator)]
    groups = [group for group in order.split(batch_size) if len(group) == batch_size or not drop_last]
    for group in groups[skip:]:
        group = group.tensor_split(share[1])[share[0]]
        read = torch.tensor([n for n in group.tolist() if n not in data.broken], dtype=torch.int64)
        data.unreadable |= {n: "truncated" for n in group.tolist() if n in data.broken}
        if len(read): yield Batch(read, data.images[read], data.labels[read])


@pytest.fixture
def contract():
    with patch.object(feeding, "batches", leaving_out): yield


@pytest.mark.parametrize("strategy, guide", [("SimCLR", None), ("AddNewPositive + DropFalseNegative", "rows")])
def test_broken_images(contract, tmp_path, capsys, strategy, guide):
    pictures = Pictures(noise(64, 3), broken=(3, 40, 41))
    rows = EmbeddingCache(torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), "rows", pictures.fingerprint) if guide else None
    sizes, step = [], Run.train_step
    def one_step(run, batch):
        sizes.append(len(batch.numbers))
        if guide: assert torch.equal(run.guidance.rows(batch.numbers, None), rows[batch.numbers])
        step(run, batch)
    with patch.object(Run, "train_step", one_step): result = pretrain(replace(BASE, batch_size=16, strategy=strategy), pictures, rows, tmp_path)
    assert len(sizes) == 8 and sum(sizes) == 2 * 61 and len(result.history) == 2
    record = json.loads((tmp_path / "record.json").read_text())["config"]
    assert record["unreadable"] == {"3": "truncated", "40": "truncated", "41": "truncated"} and record["unreadable_images"] == 3 and record["skipped_steps"] == 0
    assert "3 images could not be read and were left out: " in capsys.readouterr().err


def test_batches_without_images(contract, tmp_path, capsys):
    "Batches of two, in one of which nothing can be read, and in others one: these steps are left out, and the run goes on and resumes."
    pictures = Pictures(noise(8, 3), broken=(2, 3))
    config = replace(BASE, batch_size=2, epochs=3, checkpoint_minutes=0)
    steps, go_on = [], Run.train_step
    def one_step(run, batch):
        steps.append(run.step)
        go_on(run, batch)
    with patch.object(Run, "train_step", one_step): whole = pretrain(config, pictures, folder=tmp_path / "whole")
    orders = [torch.randperm(8, generator=generator(0, "order", epoch)).split(2) for epoch in range(3)]
    readable = [not set(group.tolist()) & pictures.broken for order in orders for group in order]
    assert steps == [step for step, good in enumerate(readable) if good] != list(range(len(steps)))
    record = json.loads((tmp_path / "whole" / "record.json").read_text())["config"]
    assert steps == [0, 1, 4, 6, 7, 8, 10, 11] and record["skipped_steps"] == 4  # in two of them nothing could be read
    assert f"{record['skipped_steps']} steps were left out" in capsys.readouterr().err
    with interrupted_at(7), pytest.raises(KeyboardInterrupt): pretrain(config, pictures, folder=tmp_path / "cut", progress=False)
    pictures.unreadable.clear()  # as in a process of its own
    assert same(weights(pretrain(config, pictures, folder=tmp_path / "cut", progress=False)), weights(whole))
    pictures.unreadable.clear()
    pretrain(config, pictures, folder=tmp_path / "cut", progress=False)  # finished: nothing is read
    again = json.loads((tmp_path / "cut" / "record.json").read_text())["config"]
    assert again == record and again["unreadable"] == {"2": "truncated", "3": "truncated"}


def test_nothing_can_be_read(contract):
    with pytest.raises(ValueError, match="of no batch of epoch 1 could two images be read"): pretrain(replace(BASE, batch_size=4), Pictures(noise(8, 3), broken=range(8)), progress=False)


def test_broken_first_image(contract):
    pictures = Pictures(noise(16, 3), broken=(0, 1))
    assert with_own_views(replace(BASE, augment=halves), pictures, torch.arange(16)).augment.size == 16
    with pytest.raises(ValueError, match="the first 16 images of pictures cannot be read"): with_own_views(replace(BASE, augment=halves), Pictures(noise(16, 3), broken=range(16)), torch.arange(16))


# ---------------------------------------------------------------- the dry run

def test_a_dry_run_takes_no_more_steps_than_the_run(data):
    taken, go_on = [], Run.train_step
    def one_step(run, batch):
        taken.append(run.step)
        go_on(run, batch)
    with patch.object(Run, "train_step", one_step): found = dry_run(replace(BASE, epochs=1), data)
    assert len(taken) == 3 + 5 and found.steps == 5 and "from 5 steps that were measured" in str(found)


def test_a_dry_run_ends(data):
    "By a clock that only steps and embedded images move: six seconds each."
    now, embedded, go_on = [0.0], [], Run.train_step
    def one_step(run, batch):
        now[0] += 6
        go_on(run, batch)
    class Slow(LabelGuide):
        def embed(self, data, batch_size=256, progress=True):
            now[0] += 6
            embedded.append(len(data))
            return super().embed(data)
    with patch.object(Run, "train_step", one_step), patch("time.perf_counter", lambda: now[0]):
        found = dry_run(replace(BASE, epochs=10, strategy="AddNewPositive"), data, Slow(0.0))
    assert embedded == [64, 64] and found.guide_hours * 3600 == pytest.approx(12 / 128 * 160)
    assert found.steps == 2 and found.hours * 3600 == pytest.approx(6 * 10 * 5)


@pytest.mark.parametrize("strategy", ["AddNewPositive(pool='dataset')", "DropFalsePositive + AddNewPositive(pool='dataset')"])
def test_a_dry_run_looks_for_neighbours_in_a_small_part(strategy):
    class Images(LabelGuide):
        per_view = True
        def encode(self, views): return torch.nn.functional.one_hot(torch.arange(len(views)) % 5).float()
    data, found = load_data("digits").train, []
    neighbours = EmbeddingCache.neighbours
    def spy(cache, *args, **options):
        found.append(len(cache))
        return neighbours(cache, *args, **options)
    config = replace(BASE, batch_size=16, views=3, strategy=strategy)
    with patch.object(EmbeddingCache, "neighbours", spy):
        dry_run(config, data, Images(0.0), steps=2)
        if not strategy.startswith("Drop"): dry_run(config, data, EmbeddingCache.build(LabelGuide(0.0), data, progress=False), steps=2)
    assert set(found) == {64}
