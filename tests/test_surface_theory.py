"""The theory says what is wrong with what it is given, in one line that names the argument, or takes it at its worth.

A table of all public callables with arguments that are right. Each argument is replaced in turn by values that are
wrong, and by the right value in other forms. A callable or an argument that is missing from the table fails a test."""
import inspect
import math
import re

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from clip_help_simclr import cooccurrence, factorization, generalization, unification
from clip_help_simclr.cooccurrence import Cooccurrence, PairDistribution
from clip_help_simclr.core import generator

pytestmark = pytest.mark.filterwarnings("error")  # an imaginary part that is dropped is a warning of numpy's


def whole(*shape): return torch.randint(1, 6, shape, dtype=torch.float64, generator=generator(0, "surface", *shape))


COUNTS, SQUARE = whole(4, 3), whole(4, 4) + whole(4, 4).T
IMAGES, TEXTS, MASS = whole(4, 2), whole(3, 2), whole(4)
CONDITIONAL = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 2, 0]], dtype=torch.float64) / 2
POSTERIOR = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 2], [0, 0, 0]], dtype=torch.float64) / 2
CO, PAIRS = Cooccurrence(COUNTS), PairDistribution(SQUARE)


# ---------------------------------------------------------------- what is wrong, by kind of argument

def no_numbers():
    "Wrong wherever numbers are expected."
    yield from (None, "a", {}, object(), CO, np.linalg.svd)
    yield from ([[1.0], [1.0, 2.0]], [None, 1.0], ["1", "2"], [1, "a"], [10**400])
    yield from (np.array(["1", "2"]), np.array([[None] * 2] * 4), np.array([1, 2], "datetime64[s]"))
    yield torch.ones(4, 2).to_sparse()


def no_arrays():
    "Wrong wherever rows of numbers are expected."
    yield from (*no_numbers(), 3, math.nan, [], torch.zeros(0))


def spoilt(good):
    "An array that is right, with one fault each."
    for value in (math.nan, math.inf, -math.inf):
        wrong = good.clone()
        wrong.view(-1)[-1] = value
        yield from (wrong, wrong.numpy())
    yield from (good[:0], good[None], good.sum(), good.to(torch.complex64), good.numpy() + 1j, good[..., :0])


def not_distributions(good):
    yield from spoilt(good)
    yield from (0 * good, -good, good - good.max(), good * 1e308)


def not_counts_of_pairs(good):
    yield from (*no_arrays(), *not_distributions(good), good[0])
    sparse = sp.csr_array(good.numpy())
    yield from (sparse * 1j, -sparse, 0 * sparse, sp.coo_array(np.ones(3)))
    yield sp.csr_array((np.array([1, math.nan]), ([0, 1], [0, 1])), shape=tuple(good.shape))


def not_symmetric(good):
    yield from not_counts_of_pairs(good)
    yield from (good[:3], good + torch.arange(4), sp.csr_array(good[:3].numpy()))


def not_conditional(good):
    yield from not_counts_of_pairs(good)
    yield from (2 * good, good.T, good.bool(), sp.csr_array(2 * good.numpy()))


def not_features(good):
    yield from (*no_arrays(), *spoilt(good), good[0], 1e80 * good, sp.csr_array(good.numpy()))


def not_features_of_these(good):
    yield from (*not_features(good), good[:2], torch.cat([good, good]))


def not_weights(good):
    yield from (value for value in (*no_arrays(), *not_distributions(good)) if value is not None)
    yield from (good[:2], torch.cat([good, good]), sp.csr_array(good.numpy()[None]))


def not_labels(good):
    yield from (*no_arrays(), good[:2], good[None], torch.cat([good, good]), good.to(torch.complex64), good.bfloat16())
    yield from (["a", None, "b", "c"], [1, "a", 2, 3], [1.0, 2.0, math.nan, 3.0], [b"a"] * 4, [[1], [2], [3], [4]])


def not_ids(good):
    yield from (*no_arrays(), good.double(), good.bool(), good[None], good[:0], good - 1, good.tolist() + [0])
    yield from ([True] * 6, good.numpy().astype(complex), [str(i) for i in good.tolist()])
    yield from (10**12 * (good + 1), np.uint64(2**63) + good.numpy().astype(np.uint64))


def not_mass(good): yield from (*no_arrays(), *spoilt(good), 0 * good, -good, good - good.max())


def not_posterior(good):
    yield from (*no_arrays(), *not_distributions(good), good[0], 2 * good, sp.csr_array(good.numpy()), torch.zeros(0, 3))


def not_marginal(good):
    yield from (value for value in (*no_arrays(), *not_distributions(good)) if value is not None)
    yield from (good[:2], torch.tensor([0.0, 1, 1]), sp.csr_array(good.numpy()[None]))


NOT_WHOLE = [
    0, -1, 2.5, 2.0, 2 + 0j, "2", True, math.nan, math.inf, 10**12,
    [2], np.zeros(2), torch.ones(2), torch.tensor(2), object()]
NOT_NUMBERS = [
    None, "0.1", True, np.bool_(True), math.nan, math.inf, -math.inf, -2, 2, 0.1j, 10**400,
    [0.1], np.array([0.1]), torch.tensor([0.1]), torch.tensor(True), torch.tensor(math.nan), object()]
NOT_RANKS = [None, *NOT_WHOLE, 5]
MATRICES = [None, "a", COUNTS, COUNTS.numpy(), COUNTS.tolist(), sp.csr_array(COUNTS.numpy()), object()]
NOT_CO = [*MATRICES, PAIRS, Cooccurrence]
NOT_PAIRS = [*MATRICES, SQUARE, CO, PairDistribution]
NOT_GENERATORS = [3, "a", torch.Generator, np.random.default_rng(0), object()]


# ---------------------------------------------------------------- the table

Y4, Y3, IDS = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1, 0, 2, 2])
NAME = "an argument's name"  # of helpers that are told how the user calls the argument
MASSES, LABELS = (MASS, not_weights), (Y4, not_labels)
CALLS = {
    "as_float64": dict(argument=NAME, value=(COUNTS, list(no_numbers()))),
    "inverse_sqrt": dict(mass=(MASS, not_mass)),
    "class_labels": dict(argument=NAME, y=LABELS, n=(4, [None, *NOT_WHOLE])),
    "row_weights": dict(argument=NAME, weights=MASSES, n=(4, [None, *NOT_WHOLE])),
    "Cooccurrence": dict(P=(COUNTS, not_counts_of_pairs)),
    "Cooccurrence.from_pairs": dict(
        image_ids=(IDS, not_ids), text_ids=(IDS, not_ids), n_images=(5, NOT_WHOLE), n_texts=(3, NOT_WHOLE)),
    "Cooccurrence.normalized": {},
    "Cooccurrence.svd": dict(k=(2, NOT_RANKS + [4])),
    "Cooccurrence.text_induced": {},
    "Cooccurrence.labeling_error": dict(y_image=LABELS, y_text=(Y3, not_labels)),
    "PairDistribution": dict(P=(SQUARE, not_symmetric)),
    "PairDistribution.from_augmentations": dict(A=(CONDITIONAL, not_conditional), p_natural=(MASS[:3], not_weights)),
    "PairDistribution.normalized": {},
    "PairDistribution.eigh": dict(k=(2, NOT_RANKS)),
    "PairDistribution.labeling_error": dict(y=LABELS),
    "block_world": dict(
        n_classes=(3, [None, 1, *NOT_WHOLE]), images=(4, [None, *NOT_WHOLE]), texts=(2, [None, *NOT_WHOLE]),
        noise=(0.1, NOT_NUMBERS + [-1e-3, 1.001]), generator=(None, NOT_GENERATORS)),
    "feature_matrix": dict(argument=NAME, f=(IMAGES, not_features_of_these), n=(4, NOT_WHOLE)),
    "mm_spectral_loss": dict(
        f_image=(IMAGES, not_features_of_these), f_text=(TEXTS, not_features_of_these), co=(CO, NOT_CO)),
    "amf_loss": dict(
        F_image=(IMAGES, not_features_of_these), F_text=(TEXTS, not_features_of_these), co=(CO, NOT_CO)),
    "optimal_features": dict(pairs=(CO, [*MATRICES, Cooccurrence, PairDistribution]), k=(2, NOT_RANKS + [4])),
    "subspace_distance": dict(f=(IMAGES, not_features), g=(IMAGES**2, not_features_of_these), weights=MASSES),
    "spectral_loss": dict(f=(IMAGES, not_features_of_these), pairs=(PAIRS, NOT_PAIRS)),
    "pmi": dict(co=(CO, NOT_CO + [Cooccurrence(sp.csr_array(COUNTS.numpy()))])),
    "text_induced_embedding": dict(posterior=(POSTERIOR, not_posterior), text_marginal=(MASS[:3], not_marginal)),
    "probe_error": dict(f=(IMAGES, not_features), y=LABELS, weights=MASSES),
    "regression_error": dict(f=(IMAGES, not_features), y=LABELS, weights=MASSES),
    "probe_bound": dict(phi=(0.1, NOT_NUMBERS + [-1e-3]), eigenvalue=(0.5, NOT_NUMBERS + [1.001])),
}
PLACES = {"Cooccurrence": CO, "PairDistribution": PAIRS}  # what methods are called on


def public():
    "name: callable, of all four modules; constructors and methods of classes among them."
    found = {}
    for module in (cooccurrence, factorization, unification, generalization):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value): found[name] = value
            if not inspect.isclass(value): continue
            for method in vars(value):
                bound = getattr(PLACES[name], method)
                if not method.startswith("_") and inspect.ismethod(bound): found[f"{name}.{method}"] = bound
    return found


CALLABLES = public()
ARGUMENTS = [(call, name) for call, arguments in CALLS.items() for name, entry in arguments.items() if entry is not NAME]


def right(call):
    return {name: entry if entry is NAME else entry[0] for name, entry in CALLS[call].items()}


def values(result):
    "What came out, as a list of numbers."
    if isinstance(result, Cooccurrence): return values(result.P)
    if isinstance(result, PairDistribution): return values((result.P, result.marginal))
    if isinstance(result, tuple): return [number for part in result for number in values(part)]
    if sp.issparse(result): result = result.toarray()
    return result.flatten().tolist() if isinstance(result, (torch.Tensor, np.ndarray)) else [result]


def test_all_are_here():
    assert set(CALLS) == set(CALLABLES)
    for call, arguments in CALLS.items():
        assert list(arguments) == list(inspect.signature(CALLABLES[call]).parameters), call


@pytest.mark.parametrize("call", CALLS)
def test_right_arguments(call):
    result = values(CALLABLES[call](**right(call)))
    assert result == values(CALLABLES[call](**right(call)))  # NaN would differ from itself


@pytest.mark.parametrize("call, name", ARGUMENTS)
def test_wrong_arguments(call, name):
    good, wrong = CALLS[call][name]
    for value in wrong(good) if callable(wrong) else wrong:
        said = NAME if CALLS[call].get("argument") is NAME and name != "n" else name
        with pytest.raises((ValueError, TypeError)) as found: CALLABLES[call](**right(call) | {name: value})
        message = str(found.value)
        begins = rf"({said}: |n_classes, images, texts: |text_ids: \d+ ids came for \d+ image_ids)"
        assert re.match(begins, message), (value, message)
        assert "expected" in message and "\n" not in message and len(message) < 320, message


def forms(good):
    "The same values as other types hold them."
    yield from (good.numpy(), good.tolist(), np.asfortranarray(good.numpy()), good.clone().requires_grad_())
    yield from (good.float(), good.numpy().astype(np.float32), good.bfloat16())
    if (good == good.round()).all(): yield from (good.int(), good.numpy().astype(np.uint8), good.numpy().astype(np.int64))


def is_array(good): return isinstance(good, torch.Tensor) and good.is_floating_point()


@pytest.mark.parametrize("call, name", [(call, name) for call, name in ARGUMENTS if is_array(CALLS[call][name][0])])
def test_arrays_in_other_forms(call, name):
    expected = values(CALLABLES[call](**right(call)))
    for value in forms(CALLS[call][name][0]):
        keeps_precision = name == "posterior" and getattr(value, "dtype", None) in (torch.float32, torch.bfloat16)
        tolerance = 1e-2 if keeps_precision else 1e-14
        found = values(CALLABLES[call](**right(call) | {name: value}))
        assert found == pytest.approx(expected, rel=tolerance), type(value)


SPARSE = [("Cooccurrence", "P"), ("PairDistribution", "P"), ("PairDistribution.from_augmentations", "A")]


@pytest.mark.parametrize("call, name", SPARSE)
def test_sparse_arrays(call, name):
    good = CALLS[call][name][0]
    rows = sp.csr_array(good.numpy())
    halves = (np.repeat(rows.data / 2, 2), np.repeat(rows.indices, 2), 2 * rows.indptr)
    repeated = sp.csr_array(halves, shape=rows.shape)  # entries that repeat add up
    expected = values(CALLABLES[call](**right(call)))
    for value in (rows, sp.csc_matrix(rows), sp.coo_array(repeated), repeated):
        assert values(CALLABLES[call](**right(call) | {name: value})) == pytest.approx(expected, rel=1e-14)
    squares = Cooccurrence(repeated).normalized().power(2).sum()
    assert squares == pytest.approx(float(Cooccurrence(good).normalized().square().sum()), rel=1e-14)
    assert repeated.nnz == 2 * rows.nnz, "what came stays as it was"


def test_true_and_false_are_counts_of_one():
    once = torch.eye(3, dtype=torch.bool)
    for value in (once, once.numpy(), once.tolist()): assert values(Cooccurrence(value)) == values(Cooccurrence(once.double()))


def in_words(codes): return [("cat", "dog", "emu")[code] for code in codes]


@pytest.mark.parametrize("call, name", [(call, name) for call, name in ARGUMENTS if name.startswith("y")])
def test_labels_in_other_forms(call, name):
    codes, expected = CALLS[call][name][0], values(CALLABLES[call](**right(call)))
    for value in (codes.tolist(), codes.numpy(), codes.double(), np.asarray(codes, dtype=np.uint8)):
        assert values(CALLABLES[call](**right(call) | {name: value})) == expected
    words = in_words(codes)
    others = {other: in_words(CALLS[call][other][0]) for other in CALLS[call] if other.startswith("y")}
    if call == "class_labels": expected = words
    for value in (words, tuple(words), np.array(words), np.array(words, dtype=object)):
        assert values(CALLABLES[call](**right(call) | others | {name: value})) == expected


def test_numbers_in_other_forms():
    bound = generalization.probe_bound(0.125, 0.5)
    for number in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)):
        assert generalization.probe_bound(0.125, number) == bound
    assert generalization.probe_bound(0, 1) == math.inf and generalization.probe_bound(1, -1) == 1
    for k in (np.int64(2), np.uint8(2)): assert values(CO.svd(k)) == values(CO.svd(2))


# ---------------------------------------------------------------- arguments that do not fit each other, limits

def refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says): call()


def test_sizes_that_do_not_fit():
    for loss, text in ((factorization.mm_spectral_loss, "f_text"), (factorization.amf_loss, "F_text")):
        refused(lambda: loss(IMAGES, TEXTS[:, :1], CO), f"^{text}: came with 1 columns; expected 2")
    refused(lambda: CO.labeling_error(Y4, ["a", "b", "c"]), "^y_text: came as <U1, y_image as int64; expected both")
    refused(lambda: factorization.optimal_features(PAIRS, 5), "^k: expected a whole number from 1 to 4, got 5")
    refused(lambda: Cooccurrence.from_pairs([0, 10**12], [0, 1]), "^image_ids: ids run from 0 to 10{12}; expected 0 to 9{9}")
    refused(lambda: cooccurrence.block_world(10**4, 10, 10), "^n_classes, images, texts: came 10000, 10 and 10")


def test_what_never_occurs():
    "Rows and columns of zeros change nothing but that they are there."
    padded = Cooccurrence(torch.nn.functional.pad(COUNTS, (0, 1, 0, 1)))
    (U, s, V), (images, texts) = padded.svd(4), factorization.optimal_features(padded, 4)
    assert values(s) == pytest.approx(values(CO.svd(3)[1]) + [0], abs=1e-14)
    assert not images[4].any() and not texts[3].any() and not images[:, 3].any()
    assert factorization.pmi(padded)[4].tolist() == [-math.inf] * 4
    without = CO.text_induced().labeling_error([0, 1, 0, 1])
    assert padded.text_induced().labeling_error([0, 1, 0, 1, 2]) == pytest.approx(without, rel=1e-14)


def test_features_of_zeros():
    "They span nothing: no angle among themselves, a right one to anything else; the probe names one class for all."
    zeros = 0 * IMAGES
    assert factorization.subspace_distance(zeros, zeros) == 0
    assert factorization.subspace_distance(zeros, IMAGES) == factorization.subspace_distance(IMAGES, zeros) == pytest.approx(1)
    assert generalization.probe_error(zeros, Y4) == 0.5 and generalization.regression_error(zeros, Y4) == 1


def test_large_features_are_used():
    "Up to 1e70: their losses are finite, their spaces those of small ones."
    huge = 1e70 / IMAGES.max() * IMAGES
    assert math.isfinite(factorization.mm_spectral_loss(huge, 1e70 / TEXTS.max() * TEXTS, CO))
    assert math.isfinite(factorization.spectral_loss(huge, PAIRS))
    assert factorization.subspace_distance(huge, IMAGES) == pytest.approx(0, abs=1e-14)
    small = generalization.regression_error(IMAGES, Y4)
    assert generalization.regression_error(huge, Y4) == pytest.approx(small, abs=1e-14)


def test_all_singular_values_of_a_thin_sparse_matrix():
    column = Cooccurrence(sp.csr_array(np.ones((2**20 + 1, 1))))
    assert column.svd(1)[1].item() == pytest.approx(1)
    assert column.text_induced().eigh(1)[0].item() == pytest.approx(1)
    refused(lambda: column.svd(2), "^k: expected a whole number from 1 to 1, got 2")
