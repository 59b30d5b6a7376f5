"""Records repeat: trials chosen at random from the committed records are run again. Minutes: `pytest -m slow`."""
import json
import random
import statistics
import time
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from clip_help_simclr.core import environment, load_record
from clip_help_simclr.trials import run_trials

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "results").glob("*/results.json"))


def settings(row, kind):
    return {f.name: row[f.name] for f in fields(kind)}


def trial_of(experiment, row):
    kind = getattr(import_module(f"clip_help_simclr.experiments.{experiment}"), row["kind"], None)
    return kind and kind(**settings(row, kind))


def repeatable():
    "Trials of experiments that need no data from outside, take less than two minutes, and measure no time."
    for path in PATHS:
        record = load_record(path)
        if "chs experiment" not in record["command"] or path.parent.name == "scaling": continue
        for row in record["results"]:
            if row.get("data") != "cifar10" and row["trial_seconds"] < 120: yield path.parent.name, row, record


def test_records_name_their_command():
    for path in PATHS: assert load_record(path)["command"].split()[0] in ("chs", "python", "CHS_SCALE=small"), path


@pytest.mark.slow
def test_two_trials_repeat():
    day = time.strftime("%Y-%m-%d")
    for experiment, row, record in random.Random(day).sample(list(repeatable()), 2):
        trial = trial_of(experiment, row)
        assert trial.key == row["key"], (experiment, trial)
        again = run_trials([trial], progress=False).iloc[0]
        fixed = {*settings(row, type(trial)), "kind", "key", "commit", "seconds", "trial_seconds"}
        numbers = [k for k, v in row.items() if k not in fixed and isinstance(v, (int, float))]
        assert numbers, (experiment, trial)
        same_machine = all(environment()[k] == record["environment"][k] for k in ("cpu", "machine", "torch", "numpy", "scikit-learn"))
        for name in numbers:
            others = [r[name] for r in record["results"] if r["kind"] == row["kind"] and all(r[f] == row[f] for f in settings(row, type(trial)) if f != "seed")]
            spread = 0 if same_machine else 4 * statistics.stdev(others)
            assert abs(again[name] - row[name]) <= spread, (day, experiment, trial, name, row[name], again[name])
