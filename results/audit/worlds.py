"""Short trainings on worlds of captioned shapes with random knobs: where does AddNewPositive help? `23_audit` judges its advice by this record.

usage: python results/audit/worlds.py   (writes results.json beside this file, goes on where it stopped; about 45 minutes on one core)
"""
import time
from pathlib import Path

import torch

from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.core import generator, load_record, save_record
from clip_help_simclr.data import ShapesWorld, shapes
from clip_help_simclr.evaluation import encode, linear_probe
from clip_help_simclr.guides import TextInducedGuide
from clip_help_simclr.training import PretrainConfig, pretrain

FACTORS = ["shape", "colour", "texture", "background"]
CONFIG = dict(width=8, epochs=15, batch_size=128)
SEEDS, IMAGES = 3, 2048
DEVELOPMENT = *range(9), 10, 11, 12, 15, *range(100, 111), *range(200, 209), 223, 224, 225, 227, 228
HELD_OUT = *range(210, 215), 234, 236, 237, 242, 245  # the last five: the next with colour as the label, where guides help more often


def knobs(number):
    "The world of a number: which factor is the label, how often captions name it and one other factor, and how often wrongly. Few guides help at first; from number 10 on captions are better, and from 200 on every other world has good captions."
    g = generator(number, "audit worlds")
    label, other = (FACTORS[i] for i in torch.randperm(len(FACTORS), generator=g)[:2])
    named, also, noise, nuisance = torch.rand(4, generator=g).tolist()
    if number >= 200 and number % 2: named, noise = 0.8 + 0.2 * named, noise / 4
    elif number >= 10: named, noise = 0.2 + 0.8 * named, noise * 0.5 ** 0.5
    return dict(named={label: round(named, 2), other: round(also, 2)}, caption_noise=round(noise**2, 2), nuisance=round(nuisance, 2), label=label, seed=number)


def accuracy(splits, strategy, seed):
    "Linear accuracy, in percent, after a short pretraining."
    config = PretrainConfig(strategy=strategy, seed=seed, augment=SimCLRViews(32, crop_scale=(0.3, 1.0)), **CONFIG)
    encoder = pretrain(config, splits.train, TextInducedGuide.from_captions(splits.train), progress=False).encoder
    train, test = (encode(encoder, data) for data in splits)
    return 100 * linear_probe(train, splits.train.labels, test, splits.test.labels).accuracy


def main():
    path = Path(__file__).with_name("results.json")
    record = load_record(path) if path.exists() else dict(results=[], seconds=0)
    rows, began = record["results"], time.perf_counter() - record["seconds"]
    for number in [*DEVELOPMENT, *HELD_OUT]:
        if any(row["world"] == number for row in rows): continue
        splits = shapes(IMAGES, IMAGES, ShapesWorld(**knobs(number)))
        strategies = ["SimCLR", "AddNewPositive"] + ["DropFalseNegative(ratio=0.05)"] * (number < 10)
        runs = {s: [round(accuracy(splits, s, seed), 2) for seed in range(SEEDS)] for s in strategies}
        rows.append(dict(world=number, held_out=number in HELD_OUT, knobs=knobs(number), linear=runs))
        config = CONFIG | dict(images=IMAGES, seeds=list(range(SEEDS)), crop_scale=[0.3, 1.0], guide="TextInducedGuide.from_captions")
        save_record(path, "python results/audit/worlds.py", config, rows, time.perf_counter() - began)
        print(rows[-1], f"{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__": main()
