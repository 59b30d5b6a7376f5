"""Shape annotations are true: the main jobs run once with every annotation of the package checked by jaxtyping's import hook."""
import os
import sys
from pathlib import Path

import pytest
from processes import completed

HOOK = """
import sys
from jaxtyping import install_import_hook
with install_import_hook("clip_help_simclr", "typechecker.typechecked"):
    import importlib, pkgutil
    import clip_help_simclr
    for found in pkgutil.walk_packages(clip_help_simclr.__path__, "clip_help_simclr."):
        if not found.name.endswith(("_modidx", "__main__")): importlib.import_module(found.name)
import torch
torch.manual_seed(0)
"""
PAIRS = """
from clip_help_simclr.core import entries
from clip_help_simclr.losses import InfoNCE, NTXent, SpectralContrastive, check_loss, check_strategy
for cls in entries("strategy").values(): check_strategy(cls())
for cls in entries("loss").values(): check_loss(cls())
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    z = torch.randn(12, 4, dtype=dtype, requires_grad=True)
    (NTXent()(z) + InfoNCE()(z, z.flip(0)) + SpectralContrastive()(z, z_text=z.flip(0))).backward()
"""
THEORY = """
from clip_help_simclr.cooccurrence import Cooccurrence, PairDistribution
from clip_help_simclr.factorization import mm_spectral_loss, optimal_features, spectral_loss
from clip_help_simclr.generalization import probe_bound, probe_error
co = Cooccurrence(torch.rand(6, 5, dtype=torch.float64))
pairs, y = co.text_induced(), torch.arange(6) % 2
image, text = optimal_features(co, 3)
mm_spectral_loss(image, text, co)
f = optimal_features(pairs, 3)
spectral_loss(f, pairs)
probe_error(f, y, pairs.marginal)
"""
COMMANDS = """
from clip_help_simclr.cli import main
def chs(*arguments):
    code = main(list(arguments))
    assert code == 0, (arguments, code)
tiny = ["--epochs", "1", "--width", "4", "--batch_size", "32", "--device", "cpu", "--precision", "float32", "--tracker", "none"]
"""
DEMO = COMMANDS + """
chs("demo", "--limit", "128", "--epochs", "1", "--guide_epochs", "1", "--seeds", "1", "--width", "4", "--device", "cpu", "--out", "demo")
"""
STEPS = COMMANDS + """
chs("embed", "--data", "shapes", "--guide", "labels:0.1", "--out", "rows")
chs("audit", "--data", "shapes", "--guide", "cache:rows", "--sample", "256", "--batch_size", "64", "--out", "audit")
chs("pretrain", "--data", "shapes", "--guide", "cache:rows", "--strategy", "AddNewPositive(pool='dataset') + DropFalseNegative",
    "--views", "3", "--chunk", "48", "--clip_norm", "1", "--loss", "decoupled", "--out", "run", *tiny)
chs("probe", "--checkpoint", "run", "--data", "digits")
chs("export", "--checkpoint", "run", "--out", "exported")
"""


@pytest.mark.parametrize("job", ["PAIRS", "THEORY", "DEMO", "STEPS"])
def test_annotations_are_true(job, tmp_path):
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONUTF8": "1", "PYTHONPATH": search}
    done = completed([sys.executable, "-c", HOOK + globals()[job]], seconds=500, cwd=tmp_path, env=env)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
