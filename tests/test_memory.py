"""A probe's process grows by much less than its features: they are never copied."""
import os
import sys

import pytest
from processes import completed

WORK = """
import resource, torch
from clip_help_simclr import evaluation
from clip_help_simclr.evaluation import logistic

def fit(x, y):
    probe = evaluation.linear_probe(x, y, x[:1000], y[:1000], l2s=[1.0])
    return probe, evaluation.knn_accuracy(x, y, x[:50], y[:50])

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10

logistic._BLOCK = 2 ** 18
logistic._Standardized.__init__.__defaults__ = (0,)  # keep nothing, as for features beyond 1 GiB
generator = torch.Generator().manual_seed(0)
y = torch.arange(200_000) % 5
fit(torch.randn(2000, 256, generator=generator), y[:2000])
x = torch.randn(200_000, 256, generator=generator)
x[:, :5] += torch.eye(5).repeat(40_000, 1)
before = peak()
probe, knn = fit(x, y)
assert probe.converged and probe.accuracy > 0.3 and knn > 0.2
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_probe_does_not_copy_features():
    returned = dict(os.environ, MALLOC_MMAP_THRESHOLD_="1000000", MALLOC_TRIM_THRESHOLD_="1000000")  # freed blocks go back at once: what counts is what is in use
    run = completed([sys.executable, "-c", WORK], env=returned)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 60, f"grew by {run.stdout} MiB; features are 195 MiB"
