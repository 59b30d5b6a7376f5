"""Ctrl-C, a full disk and a dead loader process, as they really happen."""
import os
import signal
import sys
from dataclasses import fields

import pytest
import torch
from PIL import Image
from processes import chs, completed, started, wait_until

from clip_help_simclr.data import FileSet, image_folder
from clip_help_simclr.training import PretrainConfig, checkpoints, pretrain, read_checkpoint

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")
SMALL = ["--data", "digits", "--batch_size", "32", "--device", "cpu", "--tracker", "none", "--checkpoint_minutes", "0.005"]


def command(width): return chs("pretrain", *SMALL, "--width", width, "--epochs", "50", "--out", "run")


@posix
def test_interrupted(tmp_path):
    with started(command(4), cwd=tmp_path) as run:
        wait_until(lambda: checkpoints(tmp_path / "run"), run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert 0 < read_checkpoint(tmp_path / "run")[0]["step"] < 50 * 162


@posix
def test_disk_full(tmp_path):
    files = 1 << 17  # of at most 128 KiB: the weights alone are larger
    limited = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({files}, {files})); runpy.run_module('clip_help_simclr.cli', run_name='__main__')"
    done = completed([sys.executable, "-c", limited, *command(16)[3:]], cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr and "make room" in done.stderr
    assert not list((tmp_path / "run").glob("*")) # and no half-written file either


class Deadly(FileSet):
    "Whoever reads an image of it is killed."
    def read(self, numbers): os.kill(os.getpid(), signal.SIGKILL)


@posix
def test_dead_loader(tmp_path):
    noise = torch.Generator().manual_seed(0)
    for i in range(40):
        pixels = torch.randint(256, (36, 36, 3), generator=noise, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i}.png")
    data = image_folder(tmp_path, size=32, memory=0, progress=False).train
    assert isinstance(data, FileSet)
    deadly = Deadly(**{field.name: getattr(data, field.name) for field in fields(data)})
    config = PretrainConfig(width=4, batch_size=8, epochs=1, device="cpu", workers=1, tracker="none")
    with pytest.raises(RuntimeError, match="step 0: a process that decodes images died.*fewer workers"):
        pretrain(config, deadly, progress=False)
