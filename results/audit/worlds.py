"""Trainings on worlds of captioned shapes with random knobs: where does AddNewPositive help? `23_audit` judges its advice by this record.

usage: python results/audit/worlds.py development|held-out   (writes results.json beside this file, goes on where it stopped; two minutes a world on one core)
"""
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.core import generator, load_record, save_record
from clip_help_simclr.data import ShapesWorld
from clip_help_simclr.evaluation import encode, linear_probe
from clip_help_simclr.guides import TextInducedGuide
from clip_help_simclr.training import PretrainConfig, build_model, pretrain

COLUMNS = dict(shape=0, colour=1, texture=4, background=5)  # the factors that can be the label, and where `ShapesWorld.draw` puts them
CONFIG = dict(width=16, epochs=5, batch_size=64, temperature=0.2)
VIEWS = SimCLRViews(24, crop_scale=(0.5, 1.0))
SEEDS, IMAGES, TEST, FAR = 2, 8192, 4096, 10**6  # test images are those from number 1,000,000 on
SPLITS = {"development": range(300, 306), "held-out": range(400, 410)}
STRATEGIES = "untrained", "SimCLR", "AddNewPositive"
# 23_audit says when a training gives an answer. That rule and the rule of the advice were committed before any held-out result was seen, and this list when only that of world 400 was.


def knobs(number):
    "The world of a number. The label goes round; how often captions name it and one other factor, how often wrongly, and how strong the nuisance is, are drawn."
    g, factors = generator(number, "audit worlds"), list(COLUMNS)
    label = factors.pop(number % 4)
    other = factors[torch.randint(3, (), generator=g)]
    named, also, noise, nuisance = torch.rand(4, generator=g).tolist()
    return dict(named={label: round(0.2 + 0.8 * named, 2), other: round(0.2 + 0.8 * also, 2)}, caption_noise=round(0.5 * noise**2, 2), nuisance=round(0.3 * nuisance, 2), label=label, size=VIEWS.size, seed=number)


def images(world, n, first=0):
    "The first n images of a world that show a large shape: a third of all. Small ones take an encoder much longer to tell apart."
    data = world.data(4 * n, first)
    return data.subset((world.draw(torch.arange(first, first + 4 * n))[0][:, 2] == 2).nonzero()[:n, 0])


def as_label(data, world, factor, first=0):
    "The same images, with another factor as their label."
    value = world.draw(torch.tensor([int(i) for i in data.ids]) + first)[0][:, COLUMNS[factor]]
    return replace(data, labels=value, classes=replace(world, label=factor).data(1).classes)


def accuracies(world, splits, strategy, seed):
    "Linear accuracy of one encoder, in percent, for each factor that captions name."
    config = PretrainConfig(strategy=strategy.replace("untrained", "SimCLR"), seed=seed, augment=VIEWS, **CONFIG)
    encoder = build_model(config, VIEWS.size).encoder if strategy == "untrained" else pretrain(config, splits[0], TextInducedGuide.from_captions(splits[0]), progress=False).encoder
    features = [encode(encoder, data) for data in splits]
    found = {}
    for factor in world.named:
        labels = [as_label(data, world, factor, first).labels for data, first in zip(splits, (0, FAR))]
        found[factor] = round(100 * linear_probe(features[0], labels[0], features[1], labels[1]).accuracy, 2)
    return found


def main():
    part, path = sys.argv[1], Path(__file__).with_name("results.json")
    record = load_record(path) if path.exists() else dict(results=[], seconds=0)
    rows, began = record["results"], time.perf_counter() - record["seconds"]
    for number in SPLITS[part]:
        if any(row["world"] == number for row in rows): continue
        world = ShapesWorld(**knobs(number))
        splits = images(world, IMAGES), images(world, TEST, FAR)
        runs = {strategy: [accuracies(world, splits, strategy, seed) for seed in range(SEEDS)] for strategy in STRATEGIES}
        linear = {factor: {strategy: [seed[factor] for seed in found] for strategy, found in runs.items()} for factor in world.named}
        rows.append(dict(world=number, part=part, knobs=knobs(number), linear=linear))
        config = CONFIG | dict(size=VIEWS.size, crop_scale=list(VIEWS.crop_scale), images=IMAGES, test=TEST, seeds=list(range(SEEDS)), guide="TextInducedGuide.from_captions")
        save_record(path, f"python results/audit/worlds.py {part}", config, rows, time.perf_counter() - began)
        print(rows[-1], f"{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__": main()
