"""The command line in a subprocess, as a user calls it."""
import json

import pytest
import processes


def chs(*arguments, cwd):
    return processes.completed(processes.chs(*arguments), cwd=cwd)


MINE = """
from dataclasses import dataclass
from clip_help_simclr.core import register
from clip_help_simclr.resampling import DropEasyNegative

@register("strategy")
@dataclass(frozen=True)
class Mine(DropEasyNegative): "A user's own strategy."
"""
DEMO = ["demo", "--import", "mine", "--limit", 512, "--epochs", 1, "--guide_epochs", 1, "--seeds", 2, "--width", 4, "--out", "out"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    (folder / "mine.py").write_text(MINE)
    return folder, chs(*DEMO, cwd=folder)


def test_demo_prints_its_table(demo):
    folder, done = demo
    assert done.returncode == 0, done.stderr
    for row in ("the guide itself", "random encoder", "SimCLR", "AddNewPositive", "DropFalsePositive", "DropFalseNegative", "DropEasyNegative", "Mine", "label guide"):
        assert row in done.stdout
    assert str(folder / "out") in done.stdout.splitlines()[-1]


def test_demo_writes_results_and_figures(demo):
    out = demo[0] / "out"
    record = json.loads((out / "results.json").read_text())
    runs = record["results"]["runs"]
    assert len([r for r in runs if r["row"] == "SimCLR"]) == 2
    assert all(0 <= r[k] <= 100 for r in runs for k in ("linear", "few_shot", "knn"))
    assert record["command"].startswith("chs demo") and record["command"].endswith("--import mine") and record["environment"]["torch"]
    assert {p.name for p in out.glob("*.png")} == {"accuracy.png", "loss.png", "map.png", "pairs.png"}
    assert all(p.stat().st_size > 5000 for p in out.glob("*.png"))


def test_demo_goes_on_where_it_stopped(demo):
    folder, first = demo
    before = {p: p.stat().st_mtime_ns for p in (folder / "out" / "runs").rglob("checkpoint-*.safetensors")}
    assert len(before) == 14  # seven rows of two seeds
    again = chs(*DEMO, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in before}
    table = lambda text: [line.split("  ")[0:2] for line in text.splitlines() if " ± " in line]
    assert table(again.stdout) == table(first.stdout)


def test_steps_on_their_own(tmp_path):
    def ok(*arguments):
        done = chs(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout
    ok("embed", "--data", "shapes", "--guide", "labels:0.1", "--out", "rows")
    assert "AddNewPositive" in ok("audit", "--data", "shapes", "--guide", "cache:rows", "--out", "audit")
    ok("pretrain", "--data", "shapes", "--guide", "cache:rows", "--strategy", "AddNewPositive", "--width", 4, "--epochs", 1, "--out", "run")
    assert "kNN" in ok("probe", "--checkpoint", "run", "--data", "shapes")
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["strategies"]
    assert "AddNewPositive" in (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    wrong = chs("pretrain", "--data", "digits", "--guide", "cache:rows", "--strategy", "AddNewPositive", "--width", 4, "--epochs", 1, cwd=tmp_path)
    assert wrong.returncode == 2 and "fingerprint" in wrong.stderr


@pytest.mark.parametrize("arguments, message", [
    (["demo", "--data", "folder:nowhere"], "nowhere"),
    (["demo", "--data", "mnist"], "Valid:"),
    (["demo", "--strategy", "x"], "--strategy"),
    (["embed", "--data", "digits", "--guide", "clip", "--out", "x"], "unknown guide 'clip'"),
])
def test_wrong_input_is_one_message(tmp_path, arguments, message):
    done = chs(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


def test_bench_losses_writes_a_record(tmp_path):
    done = chs("bench", "losses", "--rows", "[64]", "--repeats", 1, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["results"]["rows"]
    assert {(r["loss"], r["candidate"]) for r in rows} >= {("NT-Xent", "ours"), ("DropFalseNegative", "published")}
    assert all(r["milliseconds"] > 0 for r in rows)
