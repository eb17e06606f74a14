"Rehearsals of the small experiments: what they repeat, and the breaks that they must notice; rows beyond a claim change no verdict."
import math
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from contrastive_nb import claims as C, clusters, false_negatives, kernel_infonce, metrics, mi, runs, sphere, synthetic
from contrastive_nb.ledger import LedgerError, replace_rows, read_rows
from contrastive_nb.runs import RUNS, make_row, rehearse, replay
from contrastive_nb.verdicts import run_claim

torch.set_num_threads(1)

SMALL = dict(batch=128, negatives=64, widths=(64, 64), steps=200)
CONFIGS = {
    "recovery": synthetic.Recovery(process="spiral", fixed=1, rho=1, anchors_per_slice=16, **SMALL),
    "recovery, capped": synthetic.Capped(**SMALL),
    "recovery, inverse": synthetic.Recovery(process="patches", encoder="inverse", fixed=1, concentration="constant", seed=1, **SMALL),
    "recovery, ten latents": synthetic.Recovery(process="linear70", fixed=8, concentration="constant", **SMALL),
    "false-negatives": false_negatives.Cell(rate=.5),
    "false-negatives, adnce": false_negatives.Cell("adnce", .3, seed=1),
    "false-negatives, cvar": false_negatives.Cell("cvar", .1, seed=2),
    "mi-staircase": mi.Staircase(seed=1),
    "kernels-small": kernel_infonce.Contest("digits", "simple sum"),
    "kernels-small, mixture": kernel_infonce.Contest("mixture", "mixture of losses"),
    "clusters": clusters.Trained("mlp", 1),
    "clusters, rough": clusters.Trained("rough mlp", 9)}

@cache
def recorded_row(name):
    "A row as the ledger holds it, without its measures."
    kind = name.split(",")[0]
    row = dict(kind=kind, config=CONFIGS[name].as_dict())
    return row | dict(replay=rehearse(row))

def worst(name): return max(line["gap"] for line in replay(recorded_row(name)))

@pytest.mark.parametrize("name", CONFIGS)
def test_the_present_code_repeats_itself(name):
    kept = recorded_row(name)["replay"]
    assert worst(name) <= 1 and all(math.isfinite(v) for v in kept.values()) and sum(k.startswith("objective") for k in kept) >= 7
    assert torch.get_default_dtype() == torch.float32

# Breaks

def wrap(monkeypatch, module, name, around):
    "Replace a function by `around(function, *arguments)`."
    monkeypatch.setattr(module, name, partial(around, getattr(module, name)))

def without_decay(monkeypatch, module):
    "Every schedule of a module stays at its start."
    monkeypatch.setattr(module, "math", SimpleNamespace(**{**vars(math), "cos": lambda x: 1.}))

def unthinned(kappa, dim, generator):
    "`sphere._vmf_pole` without its test."
    d, how = dim - 1, dict(dtype=kappa.dtype, device=kappa.device)
    root = d + torch.hypot(torch.full_like(kappa, d), 2*kappa)
    rho, flat = 2*kappa/root, (2*d/root).sqrt()
    x = sphere._directions((len(kappa),), dim, generator, **how)
    torch.rand(len(kappa), generator=generator, **how)
    return torch.cat([rho[:, None] + x[:, :1], flat[:, None]*x[:, 1:]], 1)/(1 + rho*x[:, 0])[:, None]

def recovery_breaks(m):
    def warm(f, h, c, *args, **kw): return f(h, replace(c, temperature=2*c.temperature), *args, **kw)
    def forget(f, path, state):
        fresh = state.optimizer.state_dict()
        f(path, state).optimizer.load_state_dict(fresh)
        return state
    def constant(f, state):
        state.config, kept = replace(state.config, decay=False), state.config
        f(state)
        state.config = kept
    def raw(f, state, *args):
        state.h = lambda z: normalize(state.process(z)[:, :z.shape[1]], dim=1)
        try: return f(state, *args)
        finally: del state.h
    def drop(f, z, codes, **kw): return f(z[:, 1:], codes, **kw)
    return dict(temperature=lambda: wrap(m, synthetic, "batch_loss", warm), sampler=lambda: m.setattr(sphere, "_vmf_pole", unthinned),
        resume=lambda: wrap(m, synthetic, "load_state", forget), schedule=lambda: wrap(m, synthetic, "update", constant),
        probe=lambda: wrap(m, synthetic, "look", raw), coordinate=lambda: wrap(m, metrics, "linear_r2", drop))

def inside(monkeypatch, module, measure, name, around):
    "Break `name` while `measure` runs, and only there."
    right = getattr(module, measure)
    def measured(*args, **kw):
        with pytest.MonkeyPatch.context() as m:
            wrap(m, module, name, around)
            return right(*args, **kw)
    monkeypatch.setattr(module, measure, measured)

def laboratory_breaks(m):
    F = false_negatives
    def warm(f, cell, p, s): return f(replace(cell, trials=tuple((2*t[0], *t[1:]) for t in cell.trials)), p, s)
    def raw(f, weights, x): return normalize(x, dim=-1).expand(len(weights[0]), -1, -1)
    def drop(f, weights, x): return f(weights, x)[..., 1:]
    return dict(temperature=lambda: wrap(m, F, "cell_losses", warm), sign=lambda: wrap(m, F, "bell", lambda f, *args: -f(*args)), schedule=lambda: without_decay(m, F),
        probe=lambda: inside(m, F, "probes", "encode", raw), coordinate=lambda: inside(m, F, "probes", "encode", drop))

def staircase_breaks(m):
    def cold(f, weights, h): return f(weights, h)/2**.5
    def lost(f, run, stair, score): return f(run, 0., score)
    def drop(f, run, stair, score): return f(run, stair, lambda x, y: score(x*(torch.arange(x.shape[-1]) > 0), y))
    return dict(temperature=lambda: wrap(m, mi, "tower", cold), probe=lambda: wrap(m, mi, "held_out", lost), coordinate=lambda: wrap(m, mi, "held_out", drop))

def kernel_breaks(m):
    K = kernel_infonce
    def warm(f, z1, z2, run): return f(z1, z2, replace(run, temperature=2*run.temperature))
    def raw(f, encoder, *args): return f(torch.nn.Identity(), *args)
    def drop(f, encoder, *args): # the liveliest feature; many are dead
        def less(x):
            features = encoder(x)
            return features*(torch.arange(features.shape[1]) != features.var(0).argmax())
        return f(less, *args)
    return dict(temperature=lambda: wrap(m, K, "contender_loss", warm), kernel=lambda: m.setitem(K.CONTENDERS, "simple sum", K.CONTENDERS["product"]),
        schedule=lambda: without_decay(m, K), probe=lambda: wrap(m, K, "small_scores", raw), coordinate=lambda: wrap(m, K, "small_scores", drop))

def cluster_breaks(m):
    def warm(f, z1, z2, temperature, **kw): return f(z1, z2, 2*temperature, **kw)
    def still(f): return f()[:1]*2
    def drop(f, *args): return f(*args)[..., :1].expand(-1, -1, -1, 2)
    return dict(temperature=lambda: wrap(m, clusters, "info_nce", warm), ascent=lambda: m.setattr(torch.optim, "Adam", partial(torch.optim.Adam, maximize=True)),
        probe=lambda: inside(m, clusters, "segment_values", "corner_segments", still), coordinate=lambda: wrap(m, clusters, "segment_values", drop))

BREAKS = {"recovery": (recovery_breaks, "temperature sampler resume schedule probe coordinate"),
    "recovery, capped": (recovery_breaks, "temperature resume schedule probe coordinate"),
    "recovery, inverse": (recovery_breaks, "temperature sampler resume schedule probe coordinate"),
    "recovery, ten latents": (recovery_breaks, "temperature sampler resume schedule probe coordinate"),
    "false-negatives": (laboratory_breaks, "temperature schedule probe coordinate"),
    "false-negatives, adnce": (laboratory_breaks, "temperature sign schedule probe coordinate"),
    "false-negatives, cvar": (laboratory_breaks, "temperature schedule probe coordinate"),
    "mi-staircase": (staircase_breaks, "temperature probe coordinate"),
    "kernels-small": (kernel_breaks, "temperature kernel schedule probe coordinate"),
    "kernels-small, mixture": (kernel_breaks, "temperature schedule probe coordinate"),
    "clusters": (cluster_breaks, "temperature ascent probe coordinate"),
    "clusters, rough": (cluster_breaks, "temperature ascent probe coordinate")}

@pytest.mark.parametrize("name, broken", [(name, broken) for name, (_, which) in BREAKS.items() for broken in which.split()])
def test_a_break_is_noticed(monkeypatch, name, broken):
    recorded_row(name)
    BREAKS[name][0](monkeypatch)[broken]()
    gap = worst(name)
    print(f"GAP {name}: {broken} {gap:.3g}")
    assert gap > 10

# Rows beyond a claim

SLOW = ("mi-trained", "dro-false-negatives", "adnce-downstream-bug", "spec-kernels-small", "clus-trained", "div-support-corrected", "div-sampler-mismatch", "div-cap", "div-table1", "div-dfixed-sweep")

def checks(key): return [(c["name"], c["measured"], c["role"]) for c in run_claim(key, "slow")["checks"]]

def further(kind, config, **changed):
    "A row that a reader's run might add: that of a run of the claim, with other numbers."
    like = next(r for r in read_rows(RUNS) if r["kind"] == kind and all(r["config"].get(k) == config.as_dict().get(k) for k in ("loss", "rate", "own", "half_angle", "encoder", "kernel")))
    return like | dict(key=config.key, config=config.as_dict(), **changed)

def test_rows_beyond_a_claim_change_nothing(monkeypatch, tmp_path):
    C.load_chapters()
    before = {key: checks(key) for key in SLOW}
    scratch = tmp_path/"runs.jsonl"
    scratch.write_bytes(RUNS.read_bytes())
    lab = [false_negatives.Cell(loss, rate, seed=seed) for loss in ("info_nce", "dro") for rate in false_negatives.RATES for seed in (5, 6, 7)] # exercise 3 of chapter 23
    lab += [false_negatives.Cell("info_nce", rate, own=False, seed=seed) for rate in (.1, .3, .5) for seed in (5, 6, 7)]
    extra = [further("false-negatives", c, probe=[.1*i for i in range(10)]) for c in lab]
    extra += [further("recovery", synthetic.Capped(steps=600, seed=seed), r2=.1) for seed in (3, 4)] # one more run at 60 degrees
    extra += [further("recovery", replace(c.config, seed=7), r2=.5, table=1, column=c.column) for c in synthetic.table_cells(1)]
    extra += [further("mi-staircase", mi.Staircase(seed=seed), estimates=dict(CPC=[9.]*6)) for seed in (5, 6)]
    extra += [further("kernels-small", kernel_infonce.Contest("digits", "simple sum", seeds=2), validation=[[0.]])]
    extra += [further("clusters", clusters.Trained(e, 10), loss=9., clean=False) for e in clusters.ENCODERS]
    replace_rows(scratch, extra, key=("kind", "key"))
    for f in (runs.recorded, runs.run_rows): monkeypatch.setattr(f, "__defaults__", (scratch,))
    assert len(runs.run_rows("false-negatives")) == 215 + len(lab)
    assert {key: checks(key) for key in SLOW} == before

@pytest.mark.parametrize("command", [partial(synthetic.recover, process="identity", steps=2), false_negatives.toy, mi.staircase, kernel_infonce.contest, clusters.train_clusters])
def test_a_row_that_cannot_be_traced_is_not_recorded(command, monkeypatch, tmp_path):
    monkeypatch.setattr("contrastive_nb.ledger.changed", lambda: ["losses.py"])
    with pytest.raises(LedgerError, match="not recorded, since 1 files of the package differ from the commit"): command(record=True, out=str(tmp_path/"out"))
    assert not (tmp_path/"out").exists()

def test_a_recorded_row_carries_its_rehearsal():
    config = replace(CONFIGS["clusters"], steps=30)
    row = make_row("clusters", config, clusters.run_trained(config), 1.)
    assert row["time"] and row["replay"]["objective 1"] > 0 and max(line["gap"] for line in replay(row)) == 0
