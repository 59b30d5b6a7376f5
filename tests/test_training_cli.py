"""What `chs pretrain` and `chs export` print, write and return."""
import json
from unittest.mock import patch

import pandas as pd
import pytest

from clip_help_simclr.cli import main
from clip_help_simclr.training import Run

def run(epochs=1, tracker="none"): return ["pretrain", "--data", "digits", "--width", "4", "--epochs", str(epochs), "--batch_size", "512", "--device", "cpu", "--tracker", tracker]


RUN = run()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)


def test_dry_run(tmp_path, capsys):
    assert main([*run(1000), "--strategy", "AddNewPositive", "--guide", "labels:0.1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert " GiB" in out and ("hours" in out or "minutes" in out)
    for part in ("wait for data", "views", "guide", "encoder", "loss", "backward", "optimizer"): assert part in out
    assert not any(tmp_path.iterdir())


def test_a_run_and_what_it_hands_over(tmp_path, capsys):
    assert main([*RUN, "--out", "run", "--profile"]) == 0
    out = capsys.readouterr().out
    assert "backward" in out and "curves are in" in out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-10.safetensors", "metrics.csv", "record.json", "curves.png"}
    assert pd.read_csv("run/metrics.csv").loss[0] == json.loads((tmp_path / "run" / "record.json").read_text())["results"][0]["loss"]
    assert main(["export", "--checkpoint", "run", "--out", "handed-over"]) == 0
    assert {path.name for path in (tmp_path / "handed-over").iterdir()} == {"model.safetensors", "README.md"}


def test_other_settings(capsys):
    assert main([*RUN, "--out", "run"]) == 0
    assert main([*RUN, "--out", "run", "--lr", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "lr was 0.002, is 0.5" in said and "or --allow-changes to go on" in said and "allow_changes" not in said
    assert main([*run(2), "--out", "run", "--allow-changes"]) == 0


def test_exit_codes(capsys):
    for error, code in ((FloatingPointError("step 3 of 10: NaN"), 1), (MemoryError("step 3: out of memory"), 1), (OSError("no space"), 2), (KeyboardInterrupt(), 130)):
        with patch.object(Run, "train_step", side_effect=error): assert main(RUN) == code
        assert "Traceback" not in capsys.readouterr().err


MEASURES = {"loss", "lr", "positive", "negative", "alignment", "uniformity", "effective_rank", "dropped", "knn", "images_per_second"}


def interrupted_and_resumed(tracker):
    "Two epochs of ten steps, measured every fourth; interrupted after the first epoch and started again."
    tracked = [*run(2, tracker), "--out", "run", "--log_every", "4", "--checkpoint_minutes", "0"]
    step = Run.train_step
    def interrupted(run, batch):
        step(run, batch)
        if run.step == 10: raise KeyboardInterrupt
    with patch.object(Run, "train_step", interrupted): assert main(tracked) == 130
    assert main(tracked) == 0


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    interrupted_and_resumed("tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert MEASURES <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [0, 4, 8, 10, 14, 18]  # measured twice at no step


def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged, log = [], wandb.Run.log
    def spy(run, values, step=None, **options):
        logged.append((run.id, dict(run.config), step, values))
        return log(run, values, step=step, **options)
    monkeypatch.setattr(wandb.Run, "log", spy)
    interrupted_and_resumed("wandb")
    assert wandb.run is None  # finished, both times
    assert len({run for run, *_ in logged}) == 1  # the second start goes on with the first one's run
    assert all(config["width"] == 4 and config["augment"]["size"] == 32 for _, config, *_ in logged)
    assert [step for *_, step, values in logged if "loss" in values] == [0, 4, 8, 10, 14, 18]
    assert MEASURES <= {name for *_, values in logged for name in values}
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 2  # what `wandb sync` uploads
