"A replay agrees with the code that made the row, and parts from code that is broken: each break exceeds ten tolerances."
import json, math, os, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrastive_nb import cifar10, losses, probes, training
from contrastive_nb.cifar10 import EXPERIMENTS, cifar_rows, experiment, kind_of, split_run
from contrastive_nb.cli import main
from contrastive_nb.images import Views, digits, to_float
from contrastive_nb.ledger import LedgerError, read_rows, replace_rows
from contrastive_nb.probes import TOLERANCE, probed_run, run_row
from contrastive_nb.runs import NotHere, largest_gap, maker_digest, rehearse, replay, run_rows
from contrastive_nb.training import PRESETS, TrainConfig

SMALL = replace(PRESETS["digits"], width=16, epochs=30., batch=128)
KINDS = {"train": SMALL, "digits-losses": replace(SMALL, loss="adnce", loss_options="mu=.7 sigma=.5", temperature=.2),
         "digits-phi": replace(SMALL, loss="generalized_spectral", loss_options="lam=3", projection=10)}

def rehearsal_row(kind, config):
    "What a replay needs of a row."
    row = dict(kind=kind, key=config.key, config=config.as_dict(), data=dict(name="digits", digest=digits().digest))
    return row | dict(replay=rehearse(row))

@pytest.fixture(scope="module")
def rows(): return {kind: rehearsal_row(kind, config) for kind, config in KINDS.items()}

@pytest.mark.parametrize("kind", KINDS)
def test_unbroken_code_repeats_a_row(rows, kind): assert largest_gap(rows[kind]) <= 1

def test_a_rehearsal_has_the_steps_and_the_measure_of_its_kind(rows):
    steps = {"single"} | {f"objective {n}" for n in (1, 2, 5, 10, 20, 31, 32, 226, 227)} # full rate is reached at step 30 of 300
    measures = {"train": {"knn", "linear", "likelihood"}, "digits-losses": {"validation", "linear", "knn", "likelihood"}, "digits-phi": {"phi"}}
    assert {kind: set(row["replay"]) for kind, row in rows.items()} == {kind: steps | names for kind, names in measures.items()}

def doubled_temperature(m):
    right = training.loss_function
    m.setattr(training, "loss_function", lambda name, T, options: right(name, 2*T, options))

def no_augmentation(m): m.setattr(Views, "__call__", lambda self, x, generator: to_float(x))

def raw_pixels(m):
    pixels = lambda encoder, x, batch=1000: to_float(x).flatten(1).cpu()
    m.setattr(probes, "extract", pixels)
    m.setattr(cifar10, "extract", pixels)

def no_decay(m):
    right = training.schedule
    m.setattr(training, "schedule", lambda t, total, w: right(t, total, w) if t < round(w*total) else 1.)

def no_warmup(m):
    right = training.schedule
    m.setattr(training, "schedule", lambda t, total, w: right(t, total, w) if t >= round(w*total) else 1.)

def forgetful_resume(m): m.setattr(training, "_optimizer_tensors", lambda optimizer: {})

def other_order(m):
    right = training.batch_rows
    m.setattr(training, "batch_rows", lambda config, data, step: right(config, data, step + 1))

def flipped_weight(m):
    def flipped(z1, z2, temperature, mu, sigma):
        return losses.contrast(z1, z2, temperature, log_weight=lambda l: (temperature*l - mu).square()/(2*sigma**2))
    m.setitem(training.FAMILY, "adnce", flipped)

BREAKS = [("train", f) for f in (doubled_temperature, no_augmentation, raw_pixels, no_decay, no_warmup, forgetful_resume, other_order)]
BREAKS += [("digits-losses", f) for f in (flipped_weight, raw_pixels)] + [("digits-phi", f) for f in (no_augmentation, no_decay, forgetful_resume)]

@pytest.mark.parametrize("kind, broken", BREAKS, ids=lambda a: getattr(a, "__name__", a))
def test_a_break_exceeds_ten_tolerances(rows, kind, broken, monkeypatch):
    broken(monkeypatch)
    gap = largest_gap(rows[kind])
    print(f"{kind} {broken.__name__}: {gap:.3g} tolerances")
    assert gap > 10

def test_data_that_are_absent_or_others(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_NB_DATA", str(tmp_path/"none"))
    probes.loaded.cache_clear()
    absent = rows["train"] | dict(data=dict(name="cifar100", digest="00"))
    with pytest.raises(NotHere, match="cifar100 is missing"): replay(absent, str(tmp_path/"nowhere"))
    with pytest.raises(NotHere, match="the row is about digits 0123, but the data here are"): replay(rows["train"] | dict(data=dict(name="digits", digest="0123")))

def test_an_unknown_kind(rows):
    with pytest.raises(LookupError, match="nothing replays runs of kind 'painting'"): replay(rows["train"] | dict(kind="painting"))

def test_a_root_is_where_the_data_are_read(rows, monkeypatch):
    probes.loaded.cache_clear()
    asked, right = [], probes.load_images
    monkeypatch.setattr(probes, "load_images", lambda name, root: asked.append((name, root)) or right(name, None))
    assert largest_gap(rows["digits-phi"], "over/there") <= 1 and asked == [("digits", "over/there")]
    probes.loaded.cache_clear()

def test_every_kind_has_a_maker_and_phi_has_its_own():
    kinds = [kind_of(what, budget) for what in EXPERIMENTS for budget in ("slow", "full", "digits")] + ["train", "cifar10-resnet-trial"]
    assert all(map(maker_digest, kinds))
    assert len({maker_digest(k) for k in kinds}) == 3
    assert maker_digest("cifar10-phi-slow") == maker_digest("digits-phi") != maker_digest("cifar10-grid-slow")

def test_a_row_whose_curve_is_not_its_rehearsal_is_refused(monkeypatch):
    config = replace(SMALL, epochs=1.)
    run, numbers = probed_run(config, digits(), device="cpu")
    row = run_row("train", run, numbers)
    assert largest_gap(row) <= 1 and set(row["geometry"]) == {"radius", "negatives", "phi", "alignment", "uniformity", "dimensions"}
    run.curve[0] += .1
    with pytest.raises(LedgerError, match=f"run {config.key}: the first loss was .* and is .* in the rehearsal"): run_row("train", run, numbers)

def test_the_command_records_digits_and_refuses_an_untraceable_checkout(tmp_path, monkeypatch, capsys):
    package = tmp_path/"package.jsonl"
    monkeypatch.setattr(cifar10, "RUNS", package)
    monkeypatch.setattr(cifar10, "require_traceable", lambda what: None)
    args = ["sweep", "lengths", "--budget", "digits", "--out", str(tmp_path), "--workers", "1", "--backend", "threading", "--device", "cpu", "--record"]
    assert main(args) == 0
    kept = run_rows("digits-lengths", package)
    assert [r["key"] for r in kept] == [c.key for c in EXPERIMENTS["lengths"][0]("digits")] and largest_gap(kept[0]) <= 1
    def refuse(what): raise LedgerError(f"{what}: not recorded")
    monkeypatch.setattr(cifar10, "require_traceable", refuse)
    capsys.readouterr()
    assert main(args) == 1 and "contrastive-nb sweep: not recorded" in capsys.readouterr().err
    more = replace(EXPERIMENTS["lengths"][0]("digits")[0], seed=7) # a seed that a reader adds
    replace_rows(package, [kept[0] | dict(key=more.key, config=more.as_dict())], key=("kind", "key"))
    assert [r["key"] for r in cifar_rows("lengths", "digits", package)] == [r["key"] for r in kept]
