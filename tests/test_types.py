"""The package, and a user's script that trains with it, are clean under pyright and mypy; a loss is a Tensor to both."""
import subprocess
import sys
from pathlib import Path

import pytest
from processes import completed

ROOT = Path(__file__).parents[1]
SCRIPT = '''
import torch
from torch import Tensor, nn

from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.data import load_data
from clip_help_simclr.encoders import Projector, build_encoder
from clip_help_simclr.evaluation import encode, linear_probe
from clip_help_simclr.guides import CaptionGuide, EmbeddingCache
from clip_help_simclr.losses import InfoNCE, NTXent, SpectralContrastive
from clip_help_simclr.resampling import AddNewPositive, Compose, DropFalseNegative
from clip_help_simclr.training import PretrainConfig, pretrain


def own_loop(steps: int) -> nn.Module:
    train, test = load_data("digits")
    guide = CaptionGuide.train(train, share=0.1, epochs=1, progress=False)
    cache = EmbeddingCache.build(guide, train, progress=False)
    encoder = build_encoder("convnet", width=8)
    model = nn.Sequential(encoder, Projector(encoder.num_features))
    optimizer = torch.optim.AdamW(model.parameters())
    views, loss_fn = SimCLRViews(32), NTXent(0.1, Compose(AddNewPositive(), DropFalseNegative()))
    for step in range(steps):
        numbers = torch.randperm(len(train))[:64]
        z: Tensor = model(views(train.batch(numbers), torch.Generator().manual_seed(step)))
        loss = loss_fn(z, guide=cache[numbers])
        reveal_type(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    reveal_type(InfoNCE()(z, z, guide=None))
    reveal_type(SpectralContrastive()(z))
    result = linear_probe(encode(encoder, train), train.labels, encode(encoder, test), test.labels)
    print(f"{result.accuracy:.3f}")
    return encoder


def library_loop() -> nn.Module:
    config = PretrainConfig(strategy="SimCLR", epochs=1)
    return pretrain(config, load_data("shapes").train, progress=False).encoder
'''


def checked(checker, tmp_path):
    "What a type checker says of package and script."
    script = tmp_path / "user.py"
    script.write_text(SCRIPT, encoding="utf-8")
    package = [sys.executable, "-m", checker, *(["-p", "clip_help_simclr"] if checker == "mypy" else [])]
    of_package = completed(package, seconds=500, cwd=ROOT)
    of_script = completed([sys.executable, "-m", checker, str(script)], seconds=500, cwd=ROOT)
    return of_package, of_script


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_clean(checker, tmp_path):
    try: subprocess.run([sys.executable, "-m", checker, "--version"], capture_output=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError): pytest.skip(f"{checker} does not start here")
    of_package, of_script = checked(checker, tmp_path)
    assert of_package.returncode == 0, (of_package.stdout + of_package.stderr)[-6000:]
    assert of_script.returncode == 0, (of_script.stdout + of_script.stderr)[-6000:]
    revealed = [line for line in of_script.stdout.splitlines() if "Revealed type" in line or 'Type of "' in line]
    assert len(revealed) == 3 and all("Tensor" in line for line in revealed), of_script.stdout
