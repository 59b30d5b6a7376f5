"""The recipes are configurations that `chs pretrain` takes."""
from pathlib import Path

import pytest

from clip_help_simclr.cli import build_parser
from clip_help_simclr.training import PretrainConfig

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def parsed(*arguments):
    parser = build_parser()
    return parser.instantiate(parser.parse_args(["pretrain", *map(str, arguments)])).pretrain


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    values = vars(parsed("--config", path, "--data", "digits"))
    config = PretrainConfig(**{name: values[name] for name in vars(PretrainConfig())})
    assert config != PretrainConfig()
    shorter = parsed("--config", path, "--data", "digits", "--epochs", 3)
    assert (shorter.epochs, shorter.lr) == (3, config.lr)  # a flag wins over the recipe


def test_the_published_setting():
    values = parsed("--config", RECIPES[[path.stem for path in RECIPES].index("paper_imagenet100")], "--data", "digits")
    assert (values.encoder, values.optimizer, values.lr, values.weight_decay, values.temperature, values.batch_size, values.epochs, values.warmup) == ("resnet18", "lars", 1.2, 1e-6, 0.1, 256, 100, 0.1)
    assert (values.augment.size, values.augment.strength, values.augment.blur, values.augment.crop_scale) == (224, 1.0, 0.5, (0.08, 1.0))
