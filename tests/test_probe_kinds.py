"""Mean accuracy over classes, images that cannot be read, and bad arguments to evaluation, which end in errors that name them."""
import inspect
import math
from dataclasses import asdict
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import SECONDS, spawn

from clip_help_simclr import evaluation
from clip_help_simclr.augment import SimCLRViews
from clip_help_simclr.core import generator
from clip_help_simclr.data import Splits, TensorSet
from clip_help_simclr.demo import probe_encoder
from clip_help_simclr.encoders import build_encoder
from clip_help_simclr.evaluation import encode, few_shot_probe, knn_accuracy, knn_predict, linear_probe, sgd_probe, transfer

NAMED = (TypeError, ValueError)


def test_mean_per_class():
    "Noise with 99 images of one class to each of the other: the accuracy looks good, the mean over the classes does not."
    noise, labels = torch.randn(1200, 8, generator=generator(0, "noise")), (torch.arange(600) % 100 == 0).long()
    split = noise[:600], labels, noise[600:], labels
    found = linear_probe(*split)
    assert found.accuracy > 0.98 and abs(found.mean_per_class - 0.5) < 0.05
    by_hand = np.mean([found.correct[labels == c].double().mean().item() for c in (0, 1)])
    assert found.mean_per_class == pytest.approx(by_hand) and found.record()["mean_per_class"] == found.mean_per_class
    assert type(found)(**asdict(found)) == found
    assert knn_accuracy(*split) > 0.98 and knn_accuracy(*split, per_class=True) == pytest.approx(0.5, abs=0.01)
    predicted = knn_predict(*split[:3], k=3)
    by_hand = np.mean([(predicted[labels == c] == c).double().mean().item() for c in (0, 1)])
    assert knn_accuracy(*split, k=3, per_class=True) == pytest.approx(by_hand)
    assert few_shot_probe(*split, draws=20).mean_per_class == pytest.approx(0.5, abs=0.15)


def test_mean_of_equal_classes_is_the_accuracy():
    labels = torch.arange(60) % 3
    x = torch.eye(3)[labels] + torch.randn(60, 3, generator=generator(0))
    split = x[:30], labels[:30], x[30:], labels[30:]
    for found in (linear_probe(*split), few_shot_probe(*split)): assert found.mean_per_class == pytest.approx(found.accuracy)
    assert knn_accuracy(*split, per_class=True) == pytest.approx(knn_accuracy(*split))


def test_classes_that_training_lacks_and_rows_without_a_label():
    "Classes 5 and 9 of the test rows: one is always right, the other unknown to training; rows of −1 do not count."
    x, train_y, test_y = torch.eye(4).repeat(3, 1), torch.tensor([5, 6, 5, 6] * 3), torch.tensor([5, -1, 5, 9] * 3)
    found = linear_probe(x, train_y, x, test_y)
    assert found.accuracy == pytest.approx(2 / 3) and found.mean_per_class == 0.5 and knn_accuracy(x, train_y, x, test_y, k=1, per_class=True) == 0.5


def sets():
    labels, images = torch.arange(24) % 2, torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator(0))
    return [Broken(name="pictures", classes=("a", "b"), labels=labels, captions=[""] * 24, caption_source="none", size=16, images=images) for _ in range(2)]


class Broken(TensorSet):
    "Images number 1 and 4 cannot be read."
    lost = {"1", "4"}

    def read(self, numbers): return self.batch(numbers), {n: "truncated" for n in numbers.tolist() if self.ids[n] in self.lost}


@pytest.mark.filterwarnings("ignore:data")
def test_unreadable_rows_are_nan():
    data, encoder = sets()[0], build_encoder("convnet", width=4)
    x = encode(encoder, data, batch_size=5)
    assert sorted(data.unreadable) == [1, 4] and x.isnan().all(1).nonzero()[:, 0].tolist() == [1, 4] and int(x.isnan().any(1).sum()) == 2
    torch.testing.assert_close(encode(encoder, data, batch_size=24), x, equal_nan=True)
    for probe in (linear_probe, few_shot_probe, knn_accuracy):
        with pytest.raises(ValueError, match="^(train|test)_x: 2 of 24 rows hold NaN.*data.unreadable"): probe(x, data.labels, x, data.labels)
    with pytest.raises(ValueError, match="^test_x: 2 of 24 rows hold NaN"): knn_predict(x.nan_to_num(), data.labels, x)


@pytest.mark.filterwarnings("ignore:data")
def test_callers_leave_them_out():
    "Their accuracies are those of the readable images, and how many are missing is said."
    encoder, says = build_encoder("convnet", width=4), "data: 2 of 24 images of pictures could not be read"
    kept = torch.tensor([n for n in range(24) if n not in (1, 4)])
    train, test = sets()
    x = encode(encoder, TensorSet(**{k: v for k, v in vars(train).items() if k not in ("unreadable", "ids")}))
    with pytest.warns(UserWarning, match=says): found = transfer(encoder, train, test)
    y = train.labels[kept]
    split = x[kept], y, encode(encoder, test)[kept], y
    assert found.n_train == found.n_test == 22 and found.accuracy == linear_probe(*split).accuracy
    with pytest.warns(UserWarning, match=says): probed = probe_encoder(encoder, Splits(lambda: train, lambda: test), torch.device("cpu"))
    assert probed["linear"] == pytest.approx(100 * found.accuracy) and probed["per_class"] == pytest.approx(100 * found.mean_per_class)
    train, test = sets()
    with pytest.warns(UserWarning, match=says): sgd = sgd_probe(encoder, train, test, steps=2, batch_size=8, progress=False)
    assert len(sgd.correct) == 22 and 0 <= sgd.mean_per_class <= 1


@pytest.mark.filterwarnings("ignore:data")
def test_nothing_can_be_read():
    data = sets()[0]
    data.lost = set(data.ids)
    with pytest.raises(ValueError, match="^data: none of the 24 images of pictures can be read"): encode(build_encoder("convnet", width=4), data, batch_size=5)


X, Y = torch.randn(12, 4, generator=generator(0)), torch.arange(12) % 2
PICTURES = TensorSet(name="pictures", classes=("a", "b"), labels=Y, captions=[""] * 12, caption_source="none", size=16, images=torch.zeros(12, 3, 16, 16, dtype=torch.uint8))
ENCODER = build_encoder("convnet", width=4)
ANY = [None, "a", 5, [[1.0]], np.zeros((12, 4)), object()]
NOT_FEATURES = [*ANY, torch.zeros(12), torch.zeros(12, 2, 2), torch.zeros(()), torch.zeros(12, 0), torch.zeros(0, 0), X.long(), X.bool(), X + math.nan, X / 0, X.to(torch.complex64)]
NOT_LABELS = [*ANY, Y[:5], Y.float(), Y[:, None], torch.full((12,), -1), Y * math.nan, torch.zeros(0), Y.to(torch.complex64), torch.tensor(1)]
NOT_COUNTS = [None, 0, -1, 2.5, "2", True, math.nan, [2], np.zeros(2), torch.ones(2)]
NOT_POSITIVE = [None, 0, -1, "2", True, math.nan, -math.inf, [2], np.zeros(2), torch.ones(2)]
NOT_SHARES = [*NOT_POSITIVE, 1, 2, math.inf]
NOT_SEEDS = [None, 0.5, "a", math.nan, [1], np.zeros(2)]
NOT_SETS = [*ANY, PICTURES.subset(torch.arange(0)), (PICTURES, PICTURES)]
NOT_ENCODERS = [*ANY, torch.nn.Flatten(), build_encoder]
NOT_PRECISIONS = [None, "bf61", "float64", 32, torch.float32, ["float32"]]
NOT_SIZES = [*NOT_COUNTS[1:], 10**9]
NOT_WORKERS = [-1, 0.5, "2", True, math.nan, [2]]
NOT_BOOLEANS = [*ANY, torch.ones(12), torch.ones(12, 1, dtype=torch.bool), torch.ones(0, dtype=torch.bool)]
RIGHT = torch.arange(12) % 3 == 0
SPLIT, NOT_SPLIT = dict(train_x=X, train_y=Y, test_x=X, test_y=Y), dict(train_x=NOT_FEATURES + [X[:0]], train_y=NOT_LABELS, test_x=NOT_FEATURES + [X[:0]], test_y=NOT_LABELS)
CALLS = {  # callable: the right arguments, and wrong ones by name
    "encode": (dict(encoder=ENCODER, data=PICTURES), dict(encoder=NOT_ENCODERS, data=NOT_SETS, batch_size=NOT_COUNTS, precision=NOT_PRECISIONS, size=NOT_SIZES, workers=NOT_WORKERS)),
    "bootstrap_interval": (dict(correct=RIGHT), dict(correct=NOT_BOOLEANS, level=NOT_SHARES, draws=NOT_COUNTS, seed=NOT_SEEDS)),
    "paired_difference": (dict(correct_a=RIGHT, correct_b=~RIGHT), dict(correct_a=NOT_BOOLEANS, correct_b=NOT_BOOLEANS, level=NOT_SHARES, draws=NOT_COUNTS, seed=NOT_SEEDS)),
    "seed_interval": (dict(values=[0.1, 0.2]), dict(values=[None, "ab", 5, [], [0.1], [0.1, math.nan], [0.1, None], ["a", "b"], np.zeros((2, 2)), torch.zeros(()), torch.tensor([0.1, math.inf]), {0.1: 1, 0.2: 2}], level=NOT_SHARES)),
    "linear_probe": (SPLIT, NOT_SPLIT | dict(l2s=[None, (), 0.1, [0], [0.1, -1], ["a"], [math.nan], [None], "ab", [math.inf], torch.ones(2), {0.1: 1}], validation_share=NOT_SHARES, seed=NOT_SEEDS)),
    "sgd_probe": (dict(encoder=ENCODER, train=PICTURES, test=PICTURES, steps=1, progress=False), dict(encoder=NOT_ENCODERS, train=NOT_SETS, test=NOT_SETS, steps=NOT_COUNTS, batch_size=NOT_COUNTS, lr=[*NOT_POSITIVE, math.inf], augment=["a", 5, SimCLRViews, [SimCLRViews()], np.zeros(2)], precision=NOT_PRECISIONS, seed=NOT_SEEDS, workers=NOT_WORKERS)),
    "transfer": (dict(encoder=ENCODER, train=PICTURES, test=PICTURES), dict(encoder=NOT_ENCODERS, train=NOT_SETS, test=NOT_SETS, size=NOT_SIZES, batch_size=NOT_COUNTS, precision=NOT_PRECISIONS, seed=NOT_SEEDS)),
    "few_shot_probe": (SPLIT | dict(per_class=2), NOT_SPLIT | dict(per_class=[*NOT_COUNTS, 7], draws=NOT_COUNTS, l2=[*NOT_POSITIVE, math.inf], seed=NOT_SEEDS)),
    "knn_predict": ({k: v for k, v in SPLIT.items() if k != "test_y"}, {k: v for k, v in NOT_SPLIT.items() if k not in ("test_y", "test_x")} | dict(test_x=NOT_FEATURES, k=NOT_COUNTS, temperature=NOT_POSITIVE)),
    "knn_accuracy": (SPLIT, NOT_SPLIT | dict(k=NOT_COUNTS, temperature=NOT_POSITIVE, per_class=[None, 1, "yes"])),
    "alignment": (dict(z1=X, z2=X), dict(z1=NOT_FEATURES + [X[:0]], z2=NOT_FEATURES + [X[:0]])),
    "uniformity": (dict(z=X), dict(z=NOT_FEATURES + [X[:1]], t=[*NOT_POSITIVE, math.inf], block=NOT_COUNTS)),
    "effective_rank": (dict(h=X), dict(h=NOT_FEATURES + [X[:0], 0 * X])),
    "readable": (dict(x=X, data=PICTURES), dict(x=[*ANY, torch.zeros(12), X[:5]], data=[*ANY, (PICTURES, PICTURES)])),
}
ELSEWHERE = {"gather", "progress"}  # flags that any value turns on or off
TOGETHER = {"correct_a": "correct_a, correct_b", "correct_b": "correct_a, correct_b", "z1": "z1, z2", "z2": "z1, z2", "train_x": "train_x, test_x|train_y|test_x", "test_x": "train_x, test_x|test_y"}


def test_all_are_here():
    assert set(CALLS) | {"Interval", "ProbeResult", "SGDProbeResult", "FewShotResult"} == set(evaluation.__all__)
    for name, (_, wrong) in CALLS.items(): assert set(wrong) | ELSEWHERE >= set(inspect.signature(getattr(evaluation, name)).parameters), name


CASES = [(call, name) for call, (_, wrong) in CALLS.items() for name in wrong]


@pytest.mark.parametrize("call, name", CASES)
def test_arguments(call, name):
    function, (right, wrong) = getattr(evaluation, call), CALLS[call]
    pattern = f"^({name}|{TOGETHER.get(name, name)}): "
    for value in wrong[name]:
        with pytest.raises(NAMED, match=pattern) as error: function(**right | {name: value})
        message = str(error.value)
        assert "\n" not in message and len(message) < 300
        if isinstance(value, np.ndarray) and value.shape == (12, 4) and isinstance(right.get(name), torch.Tensor): assert "torch.from_numpy" in message


@pytest.mark.parametrize("call", CALLS)
def test_right_arguments(call):
    if call == "sgd_probe": return  # tested above; here its images are all black
    assert getattr(evaluation, call)(**CALLS[call][0]) is not None


# ---------------------------------------------------------------- several processes

def work(rank, processes, meeting):
    dist.init_process_group("gloo", store=dist.FileStore(str(meeting), processes), rank=rank, world_size=processes, timeout=timedelta(seconds=SECONDS))
    torch.manual_seed(0)
    encoder = build_encoder("convnet", width=4)
    for lost in ({"1", "4"}, {"4", "20"}, set(map(str, range(12)))):  # one share with gaps, both, and one of which nothing can be read
        data, alone = sets()
        data.lost = alone.lost = Broken.lost = lost
        expected = encode(encoder, alone, gather=False)
        torch.testing.assert_close(encode(encoder, data, batch_size=5), expected, equal_nan=True, rtol=1e-5, atol=1e-6)
        assert set(data.unreadable) == set(alone.unreadable) == set(map(int, lost))
    data, _ = sets()
    Broken.lost = set(data.ids)
    with pytest.raises(ValueError, match="^data: none of the 24 images"): encode(encoder, data)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_processes_agree_on_what_cannot_be_read(tmp_path): spawn(work, (2, tmp_path / "meeting"), 2)
