"""The command line as a process: what it loads, terminals, pipes, signals."""
import os
import signal
import subprocess
import sys

import pytest
from processes import started, wait_until

CLI = [sys.executable, "-m", "clip_help_simclr.cli"]
HEAVY = ("torch", "numpy", "pandas", "scipy", "torchvision", "timm", "open_clip", "accelerate", "seaborn", "matplotlib", "sklearn")
LOADED = f"""
import sys
from clip_help_simclr.cli import main
code = main(sys.argv[1:])
print("LOADED", *[name for name in {HEAVY} if name in sys.modules])
sys.exit(code)
"""
ASCII = dict(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def chs(*arguments, cwd, **env):
    return subprocess.run([*CLI, *map(str, arguments)], cwd=cwd, env={**os.environ, **env}, capture_output=True, timeout=300)


@pytest.mark.parametrize("arguments, code", [(["--version"], 0), (["--help"], 0), (["embed", "--size", "x"], 2), (["demo", "--sizes"], 2), (["dem"], 2)], ids=str)
def test_nothing_heavy_is_loaded(arguments, code, tmp_path):
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("command", ["pretrain", "embed"])
def test_help_loads_little(command, tmp_path):
    """The flags of `pretrain` are fields of a class that needs torch; jsonargparse reads its module's imports for types, pandas among them.
    Help texts list registered names, and what registers them needs torch, too."""
    done = subprocess.run([sys.executable, "-c", LOADED, command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    loaded = done.stdout.splitlines()[-1].split()[1:]
    assert "torch" in loaded and not {"scipy", "torchvision", "timm", "open_clip", "accelerate", "seaborn", "matplotlib", "sklearn"} & set(loaded)


def test_ascii_terminal(tmp_path):
    (tmp_path / "run.yaml").write_text("size: 16  # τ in pixels\n", encoding="utf-8")
    for arguments in (["--help"], ["pretrain", "--help"], ["audit", "--config", "run.yaml", "--data", "shapes", "--guide", "labels:0.1", "--sample", 200, "--batch_size", 64]):
        done = chs(*arguments, cwd=tmp_path, **ASCII)
        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")
    assert b"The page is" in done.stdout and b"\xce" not in done.stdout
    assert "σ".encode() not in done.stderr


def test_nobody_reads_on(tmp_path):
    work = ["embed", "--data", "digits", "--split", "test", "--guide", "labels:0.1", "--out", "rows"]
    for arguments, codes in ((["--help"], (0, 128 + 13)), (["pretrain", "--help"], (0, 128 + 13)), (work, (128 + 13,))):  # argparse forgives what it cannot print
        with started([*CLI, *arguments], cwd=tmp_path) as run:
            run.stdout.close()
            _, error = run.communicate(timeout=120)
        assert run.returncode in codes, error
        assert "Error" not in error and "Traceback" not in error and "Exception" not in error


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_signals_end_embed(name, tmp_path):
    number, out = getattr(signal, name), tmp_path / "out"
    command = [*CLI, "embed", "--data", "digits", "--guide", "captions", "--out", str(out)]
    log = tmp_path / "log"
    with open(log, "wb") as errors, started(command, cwd=tmp_path, stderr=errors, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as run:
        wait_until(lambda: b"caption guide" in log.read_bytes(), run)  # its training is under way
        run.send_signal(number)
        run.communicate(timeout=120)
    error = log.read_bytes()
    assert run.returncode == 128 + number, error
    assert error.splitlines()[-1].startswith(b"chs embed: interrupted") and b"Traceback" not in error
    assert not out.exists() or not list(out.iterdir())  # nothing half written
