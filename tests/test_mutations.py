"""Are the notebooks of formulas able to fail? Each formula is made wrong in turn, in the notebook and in the package, and a cell of its notebook must notice. Minutes: `pytest -m slow`."""
import ast
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from processes import completed

ROOT = Path(__file__).parents[1]

# notebook: [(what is wrong, the formula, the wrong formula)]
MUTANTS = {
    "10_cooccurrence": [
        ("probabilities scaled by the maximum", "return M / float(M.sum())", "return M / float(M.max())"),
        ("wrong exponent of the marginal", "torch.inf).rsqrt()", "torch.inf).reciprocal()"),
        ("no mass becomes infinite", "torch.where(mass > 0, mass, torch.inf).rsqrt()", "mass.rsqrt()"),
        ("columns not scaled", "return rows[:, None] * M * columns", "return rows[:, None] * M"),
        ("sparse columns not scaled", ".multiply(columns.numpy())", ""),
        ("singular values not sorted", "return U.flip(1), s.flip(0),", "return U.flip(1), s,"),
        ("smallest eigenvalues", 'which="LA"', 'which="SA"'),
        ("dense eigenvalues rising", "return values.flip(0)[:k], vectors", "return values[:k], vectors"),
        ("agreement for disagreement", "y_rows[P.row] != y_columns[P.col]", "y_rows[P.row] == y_columns[P.col]"),
        ("repeated pairs count once", "counts = sp.csr_array(once_each)", "counts = sp.csr_array(once_each).sign()"),
        ("swapped marginals", "self.text_marginal = torch.as_tensor(self.P.sum(0))", "self.text_marginal = torch.as_tensor(self.P.sum(1))[:self.P.shape[1]]"),
        ("text-induced pairs without the root", "images_as_they_are, inverse_sqrt(self.text_marginal)))", "images_as_they_are, 1 / self.text_marginal))"),
        ("Gram matrix doubled", "return B @ B.T", "return 2 * (B @ B.T)"),
        ("symmetrized without the half", "return (P + P.T) / 2", "return P + P.T"),
        ("conditional not normalized", "return _scaled(A, 1 / sums,", "return _scaled(A, sums,"),
        ("pairs of one class count as errors", "m.sum(1)[m.row] - m.data", "m.sum(1)[m.row]"),
        ("marginal of causes", "torch.as_tensor(B @ B.sum(0))", "torch.as_tensor(B.sum(1))"),
        ("natural images weighted twice", 'row_weights("p_natural", p_natural, views_of.shape[0]).sqrt()', 'row_weights("p_natural", p_natural, views_of.shape[0])'),
        ("singular values for eigenvalues", "return s**2, U", "return s, U"),
        ("single precision", 'value.to("cpu", torch.float64)', 'value.to("cpu", torch.float32).double()'),
        ("weights not used", "torch.ones(n) if weights is None else weights", "torch.ones(n)"),
        ("labels in another order", "        return labels\n    elements", "        return labels[::-1]\n    elements"),
        ("noise on the wrong side", "(1 - noise) * _distribution", "noise * _distribution"),
    ],
    "11_factorization": [
        ("root of the weights", "return (f.T * weights) @ f", "return (f.T * weights.sqrt()) @ f"),
        ("missing factor 2 in MMCL's loss", "push = (_second_moment(f_image, co.image_marginal) * _second_moment(f_text, co.text_marginal)).sum()\n    return push - 2 * pull",
         "push = (_second_moment(f_image, co.image_marginal) * _second_moment(f_text, co.text_marginal)).sum()\n    return push - pull"),
        ("pull over independent couples", "pull = (f_image * (_operator(co.P) @ f_text)).sum()", "pull = (co.image_marginal @ f_image) @ (co.text_marginal @ f_text)"),
        ("wrong norm", "return (M - F_image @ F_text.T).square().sum()", "return (M - F_image @ F_text.T).abs().sum()"),
        ("missing factor 2 in the sparse norm", "M.power(2).sum() - 2 * cross", "M.power(2).sum() - cross"),
        ("no root of the singular values", "torch.finfo(torch.float64).eps, values, 0).sqrt()", "torch.finfo(torch.float64).eps, values, 0)"),
        ("rounding errors as features", "torch.where(values > n * torch.finfo(torch.float64).eps, values, 0)", "torch.where(values > 0, values, 0)"),
        ("images scaled up", "inverse_sqrt(pairs.image_marginal)[:, None] * U * root", "pairs.image_marginal.sqrt()[:, None] * U * root"),
        ("features of pairs not scaled", "return inverse_sqrt(pairs.marginal)[:, None] * U", "return U"),
        ("smallest of the two distances", "return max(_sine(f, g)", "return min(_sine(f, g)"),
        ("features taken apart from their loss", "f = as_float64(argument, f)", "f = as_float64(argument, f).detach()"),
        ("weights without the root", 'row_weights("weights", weights, len(f)).sqrt()[:, None]', 'row_weights("weights", weights, len(f))[:, None]'),
        ("missing factor 2 in the pair loss", ".square().sum() - 2 * pull", ".square().sum() - pull"),
        ("causes not squared", "pull = (_operator(pairs.factor).T @ f).square().sum()", "pull = (_operator(pairs.factor).T @ f).abs().sum()"),
        ("PMI in bits", "ratio.log()", "ratio.log2()"),
        ("PMI of the normalized matrix", "co.P / (co.image_marginal[:, None] * co.text_marginal)", "co.P / (co.image_marginal[:, None] * co.text_marginal).sqrt()"),
    ],
    "12_unification": [
        ("wrong exponent of P(l)", "torch.inf).rsqrt().to(p.dtype)", "torch.inf).reciprocal().to(p.dtype)"),
        ("marginal not scaled", "torch.where(m > 0, m / m.sum(), torch.inf)", "torch.where(m > 0, m, torch.inf)"),
        ("texts all alike", "text_marginal is None: m = p.sum(0, dtype=wide)", "text_marginal is None: m = torch.ones_like(p[0], dtype=wide)"),
    ],
    "13_generalization": [
        ("weights without the root", "root = weights.sqrt()[:, None]", "root = weights[:, None]"),
        ("smallest score", "scores.argmax(1) != one_hot", "scores.argmin(1) != one_hot"),
        ("accuracy for error", "scores.argmax(1) != one_hot.argmax(1)", "scores.argmax(1) == one_hot.argmax(1)"),
        ("absolute error", "(scores - one_hot).square().sum(1)", "(scores - one_hot).abs().sum(1)"),
        ("mean over classes", "(scores - one_hot).square().sum(1)", "(scores - one_hot).square().mean(1)"),
        ("missing factor 2 in the bound", "return 2 * phi / (1 - eigenvalue)", "return phi / (1 - eigenvalue)"),
        ("eigenvalue squared", "return 2 * phi / (1 - eigenvalue)", "return 2 * phi / (1 - eigenvalue**2)"),
        ("a bound of 1 without connection", "else math.inf", "else 1.0"),
    ],
    "14_text_vs_augmentation": [
        ("named channel not squared", "return named * (1 - noise * n / (n - 1))**2", "return named * (1 - noise * n / (n - 1))"),
        ("one view redrawn", "return (1 - redrawn)**2", "return 1 - redrawn"),
        ("labeling error without chance agreement", "return (1 - 1 / C) * (1 - eigenvalue)", "return 1 - eigenvalue"),
        ("multiplicity of a factor", "int(np.prod([factors[f][0] - 1 for f in S]))", "int(np.prod([factors[f][0] for f in S]))"),
    ],
    "pairs/17_similarity": [
        ("k off by one", "position = S.shape[1] - k if largest else k - 1", "position = S.shape[1] - k - 1 if largest else k"),
        ("columns taken for rows on the diagonal", "first = (row - column + height - 1)", "first = (column - row + height - 1)"),
    ],
    "pairs/18_graph": [
        ("the k-th largest stays in the band", "True, scratch) - tolerance", "True, scratch) + tolerance"),
        ("the k-th smallest stays in the band", "False, scratch) + tolerance", "False, scratch) - tolerance"),
        ("columns of one image round down", "-(-self.high // copies)", "max(1, self.high // copies)"),
        ("positives leave with the band", '(weights == 0).to(out.dtype), "amin")', 'torch.ones_like(weights, dtype=out.dtype), "amin")'),
    ],
    "pairs/19_nearest": [
        ("the nearest is a view of the own image", "fill_own(S, start, 0, period, -torch.inf)", "fill_own(S, start, 0, max(rows.shape[0], columns.shape[0]), -torch.inf)"),
        ("ties of a lower rank not counted", "(tied.cumsum(1) == rank - above)", "(tied.cumsum(1) == 1)"),
        ("views of the own image have a rank", "fill_own(S, block.start, block.columns.start, graph.images, -torch.inf)", "fill_own(S, block.start, block.columns.start, graph.views * graph.images, -torch.inf)"),
    ],
    "resampling/22_paper": [
        ("another pair is false", "kthvalue(k).values", "kthvalue(k + 1).values"),
        ("the new positive takes too little", "(1 - self.weight) * graph.weights", "graph.weights"),
    ],
    "losses/26_softmax": [
        ("temperature without the root", "return self._temperature ** -0.5", "return self._temperature ** -1"),
        ("positives pull from one side", ".scatter_add_(0, positives.T, w.T)", ""),
        ("softmax of one side, doubled", "E *= a[:, None] + a", "E *= 2 * a[:, None]"),
        ("a tile above the diagonal serves no columns", "if not one or I != J: gy[J].addmm_(E.T, x[I])", "if not one: gy[J].addmm_(E.T, x[I])"),
        ("positives not weighed against the denominator", "E.scatter_add_(1, positives, -weights * d)", "E.scatter_add_(1, positives, -weights)"),
    ],
    "losses/27_spectral": [
        ("missing factor 2 in the spectral loss", ".sum() - 2 * (weights * pull).sum()", ".sum() - (weights * pull).sum()"),
        ("squares not shared among the columns", "max(graph.columns - views, 1)", "max(graph.columns, 1)"),
    ],
    "losses/28_losses": [
        ("dropped rows count in the mean", "kept = graph.kept.sum()", "kept = torch.ones_like(graph.kept).sum()"),
        ("radial part of the gradient", "value=-loss.length**-2", "value=-loss.length**-1"),
        ("gradients not scaled by the processes", "gx *= len(shares.sizes)", "gx *= 1"),
    ],
}
# formulas that the notebook of another room tests: (notebook that must notice, notebook of the formula, what, formula, wrong formula)
ELSEWHERE = [
    ("losses/28_losses", "pairs/18_graph", "weights not scaled to sum 1", "shares = weights / torch.where(kept, total, 1)", "shares = weights"),
    ("losses/28_losses", "losses/26_softmax", "a band taken for symmetric", "E = E.mul_(a[:, None]) + E.T", "E *= a[:, None] + a"),
    ("losses/28_losses", "losses/26_softmax", "no columns left, infinite logarithm", "if graph.banded: d += d == 0", "if graph.banded: d += 0"),
    ("losses/28_losses", "losses/26_softmax", "own views stay in a decoupled denominator", "return _one_tile(x, graph, gx, period)", "return _one_tile(x, graph, gx, n)"),
]
CASES = [(notebook, notebook, what, old, new) for notebook, mutants in MUTANTS.items() for what, old, new in mutants] + ELSEWHERE


def read(notebook):
    return json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text(encoding="utf-8"))


def code_cells(notebook):
    return [(cell, "".join(cell["source"])) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def module_of(notebook):
    "The exported file of a notebook, relative to the package; None for one that exports nothing."
    for _, source in code_cells(notebook):
        if source.startswith("#| default_exp "): return source.split()[2].replace(".", "/") + ".py"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("notices, formula, what, old, new", CASES, ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "")
def test_a_wrong_formula_is_noticed(notices, formula, what, old, new, tmp_path):
    notebook, source_of = read(notices), read(formula)
    [(cell, source)] = [(cell, source) for cell, source in code_cells(source_of) if old in source]
    assert source.count(old) == 1
    package = shutil.copytree(ROOT / "clip_help_simclr", tmp_path / "clip_help_simclr")  # other rooms, and processes that a cell starts, import it
    if module_of(source_of):
        module = package / module_of(source_of)
        module.write_text(module.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    if notices == formula:
        cell["source"] = source.replace(old, new)
        notebook = source_of
    path = tmp_path / "mutated.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONUTF8": "1", "PYTHONPATH": str(tmp_path)}
    run = "import sys; from execnb.nbio import read_nb; from execnb.shell import CaptureShell; CaptureShell().run_all(read_nb(sys.argv[1]), exc_stop=True)"
    done = completed([sys.executable, "-c", run, str(path)], seconds=540, cwd=tmp_path, env=env)
    assert done.returncode != 0, f"no cell of {notices} noticed {new!r} in place of {old!r}"
    assert "SyntaxError" not in done.stderr and "ModuleNotFoundError" not in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("notebook", dict.fromkeys(formula for _, formula, *_ in CASES))
def test_each_mutant_still_finds_its_formula(notebook):
    sources = [source for _, source in code_cells(read(notebook))]
    for _, formula, what, old, _ in CASES:
        if formula == notebook:
            assert sum(source.count(old) for source in sources) == 1, f"{what}: {old!r} should occur once in {notebook}"


@pytest.mark.parametrize("notebook", [name for name in MUTANTS if name < "14"])
def test_each_exported_formula_has_a_mutant(notebook):
    for _, source in code_cells(read(notebook)):
        if not source.startswith("#| export"): continue
        for definition in ast.parse(source).body:
            if isinstance(definition, (ast.FunctionDef, ast.ClassDef)) and not definition.name.startswith("_"):
                text = ast.get_source_segment(source, definition)
                helpers = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and node.id.startswith("_")}
                mutated = [old for _, old, _ in MUTANTS[notebook]]
                called = [ast.get_source_segment(s, d) for _, s in code_cells(read(notebook)) if s.startswith("#| export") for d in ast.parse(s).body if getattr(d, "name", None) in helpers]
                assert any(old in part for old in mutated for part in [text, *called]), f"{definition.name}: no mutant"
