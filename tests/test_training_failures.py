"""Ctrl-C, a full disk and a dead loader process, as they really happen."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from clip_help_simclr.data import FileSet, image_folder
from clip_help_simclr.training import PretrainConfig, checkpoints, pretrain, read_checkpoint

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")
COMMAND = [sys.executable, "-m", "clip_help_simclr.cli", "pretrain", "--data", "digits", "--width", "4", "--batch_size", "32", "--epochs", "50", "--device", "cpu", "--tracker", "none", "--checkpoint_minutes", "0.005", "--out", "run"]


@posix
def test_interrupted(tmp_path):
    run = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not checkpoints(tmp_path / "run") and run.poll() is None and time.monotonic() < end: time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert 0 < read_checkpoint(tmp_path / "run")[0]["step"] < 50 * 162


@posix
def test_disk_full(tmp_path):
    import resource
    files = 1 << 17  # of at most 128 KiB: the weights alone are larger
    done = subprocess.run([*COMMAND[:7], "16", *COMMAND[8:]], cwd=tmp_path, capture_output=True, text=True, timeout=120, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (files, files)))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr and "make room" in done.stderr
    assert not list((tmp_path / "run").glob("*")) # and no half-written file either


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the loader's processes must see the patched method")
def test_dead_loader(tmp_path, monkeypatch):
    noise = torch.Generator().manual_seed(0)
    for i in range(40): Image.fromarray(torch.randint(256, (36, 36, 3), generator=noise, dtype=torch.uint8).numpy()).save(tmp_path / f"{i}.png")
    data = image_folder(tmp_path, size=32, memory=0, progress=False).train
    assert isinstance(data, FileSet)
    monkeypatch.setattr(FileSet, "read", lambda self, numbers: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="step 0: a process that decodes images died.*fewer workers"):
        pretrain(PretrainConfig(width=4, batch_size=8, epochs=1, device="cpu", workers=1, tracker="none"), data, progress=False)
