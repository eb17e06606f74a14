"Reach is checked by running: each settling function and each maker of rows is traced once, and everything of the package that ran was declared."
from dataclasses import replace
from importlib import import_module

import pytest

from contrastive_nb import cifar10, claims as C, clusters, false_negatives, kernel_infonce, mi, probes, synthetic, verdicts
from contrastive_nb.images import digits
from contrastive_nb.reach import registered, unreached
from contrastive_nb.training import PRESETS

SETTLERS = registered("settles", "key", "tier")
LONG = {("clus-uniform", "slow"), ("clus-preserving", "slow"), ("clus-agnostic", "slow")} # a minute and more each; their functions are those of the fast tier

@pytest.fixture(scope="module", autouse=True)
def chapters(): C.load_chapters()

@pytest.mark.parametrize("which", sorted(set(SETTLERS) - LONG), ids="-".join)
def test_a_settling_function_reaches_what_it_runs(which, monkeypatch):
    monkeypatch.setattr(verdicts, "largest_gap", lambda row: 0.) # a replay runs the maker's code, and belongs to the rows that the claim reads
    module, name = SETTLERS[which]
    f = getattr(import_module(f"contrastive_nb.{module}"), name)
    assert unreached(lambda: list(f()), module, name) == set()

IMAGES = replace(PRESETS["digits"], width=8, epochs=2., batch=128)
PHI = replace(IMAGES, loss="generalized_spectral", loss_options="lam=.3", projection=4)
TINY = { # what each maker is given; the caller makes it, so it is made outside of what is traced
    "recovery": (synthetic.run_recovery, synthetic.Recovery(steps=30, widths=(16,), fixed=1, rho=.5, negatives=32)),
    "false-negatives": (false_negatives.result, false_negatives.Cell(rate=.1, steps=5)),
    "mi-staircase": (mi.estimate_stairs, mi.Staircase(steps=3, stairs=(0., 1.))),
    "kernels-small": (kernel_infonce.hold_contest, kernel_infonce.Contest(trials=2, tuning_seeds=1, seeds=1, steps=5)),
    "clusters": (clusters.run_trained, clusters.Trained("mlp", steps=5)),
    "train": (probes.probed_run, IMAGES, digits()),
    "digits-grid": (cifar10.split_run, IMAGES, digits()),
    "digits-phi": (cifar10.phi_run, PHI, digits()),
}
MAKERS = {kind: place for kinds, place in registered("makes").items() for kind in kinds}

@pytest.mark.parametrize("kind", TINY)
def test_a_maker_reaches_what_it_runs(kind):
    make, *given = TINY[kind]
    assert unreached(lambda: make(*given), *MAKERS[kind]) == set()

def test_every_maker_is_traced(): assert {MAKERS[kind] for kind in TINY} == set(MAKERS.values())
