"""A resumed run says so; what may change with `allow_changes`, and what becomes of its epochs then."""
import json
from dataclasses import dataclass, replace

import pytest
import torch

from clip_help_simclr.core import Interrupted, register
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import LabelGuide
from clip_help_simclr.resampling import AddNewPositive
from clip_help_simclr.training import (
    PretrainConfig, Run, build_model, build_optimizer, checkpoints, engine, load_checkpoint, pretrain, read_checkpoint, resuming,
    save_checkpoint)
from clip_help_simclr.training.saving import step_of

BASE = PretrainConfig(width=4, projection=8, epochs=3, batch_size=32, device="cpu", precision="float32", tracker="none", log_every=1)


@pytest.fixture(scope="module")
def data(): return load_data("digits").train.subset(torch.arange(320))


def stopped(config, data, folder, step, **options):
    "A run that is interrupted after so many steps."
    go_on = Run.train_step
    def train_step(run, batch):
        go_on(run, batch)
        if run.step == step:
            import signal
            signal.raise_signal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted) as stop:
        patched.setattr(Run, "train_step", train_step)
        pretrain(config, data, folder=folder, progress=False, **options)
    assert stop.value.signum == 15


def test_it_says_that_it_resumed(data, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "clip_help_simclr.training")
    stopped(BASE, data, tmp_path, 13)
    assert "resumed" not in caplog.text
    pretrain(BASE, data, folder=tmp_path)
    assert f"resumed from {tmp_path / 'checkpoint'}-13.safetensors: step 13 of 30, in epoch 2 of 3" in capsys.readouterr().err
    pretrain(BASE, data, folder=tmp_path)
    assert f"finished: {tmp_path / 'checkpoint'}-30.safetensors is at step 30 of 30" in capsys.readouterr().err
    pretrain(BASE, data, folder=tmp_path, progress=False)
    assert not capsys.readouterr().err and caplog.text.count("finished: ") == 2


@pytest.mark.parametrize("change", [dict(width=8), dict(projection=16), dict(optimizer="sgd"), dict(optimizer="lars"), dict(encoder="resnet18")])
def test_changes_that_weights_do_not_survive(data, tmp_path, change):
    stopped(BASE, data, tmp_path, 5)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    name, = change
    with pytest.raises(ValueError, match=f"folder: .*would not survive the change .{name} was"): pretrain(replace(BASE, **change), data, folder=tmp_path, progress=False, allow_changes=True)
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_load_checkpoint_of_another_kind(tmp_path):
    def made(**change):
        config = replace(BASE, **change)
        model = build_model(config, 32)
        return model, build_optimizer(model, config.optimizer, 0.1, 0)
    model, optimizer = made()
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "checkpoint-1.safetensors", model, optimizer, dict(step=1))
    for change, says in ((dict(width=8), "another network .*0.weight is .4, 3, 3, 3. there and .8, 3, 3, 3. here"), (dict(optimizer="sgd"), "is not that of SGD"), (dict(optimizer="lars"), "is not that of Lars")):
        model, optimizer = made(**change)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError, match=f"^checkpoint: .*{says}"): load_checkpoint(tmp_path, model, optimizer)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("size, at, place", [(64, 15, 7), (64, 20, 10), (64, 11, 5), (16, 15, 30), (16, 10, 20), (40, 13, 10), (160, 15, 3)])
def test_another_batch_size(data, tmp_path, size, at, place):
    "Ten steps of 32 images make an epoch of 320: the place in the epoch stays, rounded down to whole batches."
    stopped(BASE, data, tmp_path, at)
    seen, order = [], Run.batches
    def spy(run, epoch):
        for batch in order(run, epoch):
            seen.append((epoch, run.step))
            yield batch
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "batches", spy)
        result = pretrain(replace(BASE, batch_size=size), data, folder=tmp_path, progress=False, allow_changes=True)
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3]
    per_epoch = 320 // size
    assert [step for _, step in seen] == list(range(place, 3 * per_epoch))
    assert all(epoch == step // per_epoch for epoch, step in seen)
    assert read_checkpoint(tmp_path)[0]["step"] == 3 * per_epoch == step_of(checkpoints(tmp_path)[-1])
    assert json.loads((tmp_path / "record.json").read_text())["config"]["batch_size"] == size


def test_a_checkpoint_of_before_there_were_steps_per_epoch(data, tmp_path):
    stopped(BASE, data, tmp_path, 15)
    facts, tensors = read_checkpoint(tmp_path)
    del facts["per_epoch"], facts["channels"], facts["mean"], facts["std"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "read_checkpoint", lambda folder: (facts, tensors))
        assert [e["epoch"] for e in pretrain(replace(BASE, batch_size=64), data, folder=tmp_path, progress=False, allow_changes=True).history] == [1, 2, 3]


def test_the_new_checkpoint_is_there_before_the_old_one_goes(data, tmp_path):
    stopped(BASE, data, tmp_path, 15)
    there = []
    write = save_checkpoint
    def spy(path, *args):
        there.append([p.name for p in checkpoints(tmp_path)])
        write(path, *args)
        raise OSError("no more")
    with pytest.MonkeyPatch.context() as patched, pytest.raises(OSError):
        patched.setattr(resuming, "save_checkpoint", spy)
        pretrain(replace(BASE, batch_size=64), data, folder=tmp_path, progress=False, allow_changes=True)
    assert there == [["checkpoint-15.safetensors"]]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-7.safetensors", "checkpoint-15.safetensors"]


def test_names_that_are_no_checkpoints(data, tmp_path):
    for name in ("checkpoint-8abc.safetensors", "checkpoint-.safetensors", "checkpoint-9.safetensors.bak", "checkpoint-٣.safetensors", "my-checkpoint-3.safetensors"): (tmp_path / name).write_bytes(b"no")
    (tmp_path / "checkpoint-99.safetensors").mkdir()
    assert checkpoints(tmp_path) == []
    pretrain(replace(BASE, epochs=1), data, folder=tmp_path, progress=False)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10.safetensors"]
    assert (tmp_path / "checkpoint-8abc.safetensors").exists()


def test_unknown_rows_are_counted(data, capsys):
    class Some(LabelGuide):
        def embed(self, data, batch_size=256, progress=True):
            rows = super().embed(data)
            rows[:7] = 0
            rows[7:9] = torch.nan
            return rows
    pretrain(replace(BASE, epochs=1, strategy="AddNewPositive"), data, Some(0.0))
    said = capsys.readouterr().err
    assert "2 of 320 images have no guide row and are left out" in said
    assert "the guide knows nothing about 7 of 318 images" in said


def own_strategy(default):
    "The same class of a user's, with another default."
    @register("strategy", "OwnDefault")
    @dataclass(frozen=True)
    class OwnDefault(AddNewPositive):
        weight: float = default
        def __repr__(self): return f"OwnDefault(weight={self.weight})"


def test_a_changed_default_of_a_users_class_is_noticed(data, tmp_path):
    "The text that names it stays the same, and what it means does not."
    own_strategy(0.3)
    config = replace(BASE, strategy="OwnDefault", epochs=1)
    stopped(config, data, tmp_path, 4, guide=LabelGuide(0))
    own_strategy(0.9)
    with pytest.raises(ValueError, match=r"strategy in full was 'OwnDefault\(weight=0.3\)', is 'OwnDefault\(weight=0.9\)'"):
        pretrain(config, data, LabelGuide(0), tmp_path, progress=False)
    own_strategy(0.3)
    pretrain(config, data, LabelGuide(0), tmp_path, progress=False)
