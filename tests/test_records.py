"""Records repeat: trials chosen at random from the committed records are run again. Minutes: `pytest -m slow`."""
import json
import random
import statistics
import time
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import clip_help_simclr.experiments  # noqa: F401, registers them
from clip_help_simclr.core import Scale, entries, entry, environment, load_record
from clip_help_simclr.experiments.trials import run_trials

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "results").glob("*/results.json"))


def settings(row, kind):
    return {f.name: row[f.name] for f in fields(kind)}


def trial_of(experiment, row):
    "The trial that made a row."
    kind = getattr(import_module(f"clip_help_simclr.experiments.{experiment}"), row["kind"])
    return kind(**settings(row, kind))


def of_experiments():
    "Records of experiments, by name."
    records = {path.parent.name: load_record(path) for path in PATHS}
    return {name: record for name, record in records.items() if "chs experiment" in record["command"]}


def repeatable():
    "Trials of experiments that need no data from outside, take less than two minutes, and measure no time."
    for name, record in of_experiments().items():
        if name == "scaling": continue
        for row in record["results"]:
            if row.get("data") != "cifar10" and row["trial_seconds"] < 120: yield name, row, record


def test_records_name_their_command():
    for path in PATHS: assert load_record(path)["command"].split()[0] in ("chs", "python", "CHS_SCALE=small"), path


def test_recorded_keys_are_those_of_the_trials():
    "A trial whose module moved, or whose settings changed, would be run again, and its record refused."
    records = of_experiments()
    assert set(records) == set(entries("experiment"))
    for name, record in records.items():
        for row in record["results"]: assert trial_of(name, row).key == row["key"], (name, row)
        assert {row["key"] for row in record["results"]} == {trial.key for trial in entry("experiment", name)(Scale("small"))}, name


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
        here, there = environment(), record["environment"]
        same_machine = all(here[k] == there[k] for k in ("cpu", "machine", "torch", "numpy", "scikit-learn"))
        for name in numbers:
            same = {f: row[f] for f in ("kind", *settings(row, type(trial))) if f != "seed"}
            others = [r[name] for r in record["results"] if all(r.get(f) == value for f, value in same.items())]
            spread = 0 if same_machine else 4 * statistics.stdev(others)
            assert abs(again[name] - row[name]) <= spread, (day, experiment, trial, name, row[name], again[name])
