"The laboratory's tables, losses, networks and bookkeeping, each against a second computation; a killed command goes on to the same rows."
import math, signal, subprocess, sys, time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

from contrastive_nb import false_negatives as F
from contrastive_nb.adnce import gaussian_weights, two_temperature_info_nce, weighted_loss
from contrastive_nb.ledger import read_rows
from contrastive_nb.core import stream
from contrastive_nb.dro import radius_info_nce
from contrastive_nb.false_negatives import LOSSES, Cell, best_temperature, cell_losses, certified_temperature, class_labels, cosines, encode, fresh_weights, game, grid, make_world, negative_table, price, probes, result, trial_frame, tuned
from contrastive_nb.losses import hard_negative_info_nce
from contrastive_nb.robust import anchors_with, radius, worst_case

quick = settings(max_examples=40, deadline=None)
TINY = dict(steps=3, per_class=4, negatives=6)

# The table of negatives

@quick
@given(st.integers(2, 20), st.integers(1, 30), st.floats(0, 1), st.booleans())
def test_table_has_the_rate_and_no_repeats(per_class, K, rate, own):
    lump = round(rate*K)
    if lump >= per_class or K - lump > (9 if own else 8)*per_class:
        with pytest.raises(ValueError, match="needs more than"): negative_table(rate, per_class, K, own)
        return
    table, labels = negative_table(rate, per_class, K, own), class_labels(per_class)
    assert table.shape == (10*per_class, K) and (table != torch.arange(10*per_class)[:, None]).all() and all(len(row.unique()) == K for row in table)
    assert (labels[table[:, :lump]] == (labels[:, None] + (not own))%10).all()
    assert (labels[table[:, lump:]] != labels[:, None]).all() and (own or (labels[table[:, lump:]] != (labels[:, None] + 1)%10).all())

def test_views_share_class_and_instance_only():
    world, labels = make_world(3), class_labels(50)
    assert not torch.equal(world.first, make_world(4).first)
    a, b = F.draw_views(world, labels, stream(0, "views"))
    assert a.shape == (500, 64) and a.abs().max() < 1
    centred = lambda x: x - x.mean(0)
    correlation = lambda x, y: ((centred(x)*centred(y)).sum()/centred(x).norm()/centred(y).norm()).item()
    one = F.draw_views(world, torch.zeros(4000, dtype=torch.long), stream(1, "views"))
    assert .2 < correlation(one[0], one[1]) < .9 and abs(correlation(one[0], one[1].roll(1, 0))) < .02   # within a class: the instance is shared, and nothing else
    assert correlation(a, b.roll(1, 0)) > .1                                                            # neighbours in the list share the class

# Losses of cosines against the losses of other chapters, which take embeddings

def draws(n=9, m=12):
    s = 2*torch.rand(n, m, generator=stream(1, "lab"), dtype=torch.double) - 1
    return torch.rand(n, generator=stream(2, "lab"), dtype=torch.double), s, *anchors_with(s, torch.rand(n, generator=stream(2, "lab"), dtype=torch.double))

@pytest.mark.parametrize("trial", LOSSES["two_temperature"].trials)
def test_two_temperatures(trial):
    p, s, e, positive, negatives = draws()
    T, beta = trial
    assert_close(LOSSES["two_temperature"].loss(p, s, torch.full((9,), T, dtype=torch.double), beta), two_temperature_info_nce(e, positive, T, T/(1 + beta), negatives=negatives, reduction="none"))

@pytest.mark.parametrize("trial", LOSSES["multiplied"].trials)
@pytest.mark.parametrize("name", ["adnce", "multiplied"])
def test_right_and_mistaken_adnce(name, trial):
    p, s, *_ = draws()
    T, mu, sigma = trial
    assert_close(LOSSES[name].loss(p, s, torch.full((9,), T, dtype=torch.double), mu, sigma).mean(), weighted_loss(p, s, gaussian_weights(s, mu, sigma), T, multiply=name == "multiplied"))

@pytest.mark.parametrize("name", ["debiased", "hard_negative"])
def test_debiasing(name):
    p, s, e, positive, negatives = draws()
    for T, tau_plus in LOSSES[name].trials:
        assert_close(LOSSES[name].loss(p, s, torch.full((9,), T, dtype=torch.double), tau_plus), hard_negative_info_nce(e, positive, T, tau_plus, float(name == "hard_negative"), negatives=negatives, reduction="none"))

@pytest.mark.parametrize("eta", [.02, .4, 1.6])
def test_fixed_radius(eta):
    p, s, e, positive, negatives = draws()
    assert_close(LOSSES["radius"].loss(p, s, torch.full((9,), eta, dtype=torch.double)), radius_info_nce(e, positive, eta, negatives=negatives, reduction="none"), rtol=1e-6, atol=1e-6)

def test_price_reaches_the_radius_in_single_precision():
    s = (.3*torch.randn(500, 30, generator=stream(3, "lab"))).clamp(-.99, .99)
    for eta in (.02, .4, 1.6, 2.2): assert_close(radius(s, price(s, torch.full((500,), eta))), torch.full((500,), eta), rtol=5e-3, atol=0)

def test_trials_of_a_cell_do_not_mix():
    cell = Cell("adnce", .5, **TINY)
    p, s = torch.rand(10, 40, generator=stream(4, "lab")), torch.rand(10, 40, 6, generator=stream(5, "lab"))*2 - 1
    whole = cell_losses(cell, p, s)
    for i, t in enumerate(cell.trials): assert_close(whole[i], cell_losses(replace(cell, trials=(t,)), p[i:i+1], s[i:i+1])[0])

def test_cosines_are_those_of_the_table():
    table, z = negative_table(.5, 4, 6), normalize(torch.randn(2, 3, 40, 5, generator=stream(6, "lab")), dim=-1)
    p, s = cosines(z[0], z[1], table)
    assert_close(p[2, 7], z[0, 2, 7] @ z[1, 2, 7]) and assert_close(s[1, 9, 4], z[0, 1, 9] @ z[1, 1, table[9, 4]])

# Measures

def test_game_of_known_laws():
    weights = fresh_weights(Cell(rate=.5))
    warm, ball = Cell("dro", .5, trials=((1e3,), (.2,))), Cell("radius", .5, trials=((.1,), (.8,)))
    seen = game(warm, [w[:2] for w in weights])
    assert abs(seen["on_lump"][0] - .5) < 1e-3 and seen["radius"][0] < 1e-6 < seen["radius"][1]
    assert_close(game(ball, [w[:2] for w in weights])["radius"], torch.tensor([.1, .8]).double(), rtol=1e-2, atol=0)
    assert (seen["positive"] > seen["same"]).all() and (seen["same"] > seen["other"]).all()
    cell, (z1, z2) = Cell(rate=.3), encode([w[:1] for w in weights], F.draw_views(make_world(0), class_labels(16), stream(0, "game", 0)).flatten(0, 1)).split(160, 1)
    s = cosines(z1, z2, negative_table(.3))[1][0]
    one = game(replace(cell, trials=((.2,),)), [w[:1] for w in weights], batches=1)
    assert_close(one["on_lump"][0].item(), (worst_case(s, .2)[:, :9].sum(1)*1.).mean().item(), rtol=.1, atol=0) # the positive in the denominator weighs anchors differently
    assert_close(one["variance"][0].item(), s.var(1).mean().item(), rtol=1e-5, atol=0)
    plain = Cell("dro", .3, trials=((.2,),))
    assert_close(game(plain, [w[:1] for w in weights], 1)["on_lump"][0].item(), worst_case(s, .2)[:, :9].sum(1).mean().item(), rtol=1e-4, atol=0)
    assert_close(game(plain, [w[:1] for w in weights], 1)["radius"][0].item(), radius(s, .2).mean().item(), rtol=1e-3, atol=0)

def test_probe_agrees_with_scikit_learn():
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    cell, world, labels = Cell(trials=((.1,),)), make_world(0), class_labels(40)
    weights = fresh_weights(cell)
    a, b = (encode(weights, F.draw_views(world, labels, stream(0, "probe", side), 1)[0])[0].detach() for side in ("fit", "score"))
    ours = probes(cell, weights, per_class=40)
    theirs = RidgeClassifier(alpha=.4).fit(a, labels).score(b, labels)
    assert abs(ours["probe"].item() - theirs) < .02                                          # theirs leaves the offset unpenalised
    near = KNeighborsClassifier(10, metric="cosine").fit(a[::4], labels[::4]).score(b[::4], labels[::4])
    assert abs(ours["neighbours"].item() - near) < .03                                       # up to ties of a vote

# Tables by hand

def rows_of(values, loss="info_nce", rate=0., own=True):
    "Rows with the given probes, seed by seed."
    for seed, x in enumerate(values):
        config = Cell(loss, rate, own=own, seed=seed, trials=tuple((T,) for T in (.1, .2, .4))).as_dict()
        yield dict(config=config, untrained=.3, **{k: x for k in F.MEASURED}, kind="false-negatives")

def test_tuned_takes_the_trial_of_the_others():
    frame = trial_frame(list(rows_of([[.9, .1, .2], [.3, .5, .2], [.3, .6, .1]])))
    assert tuned(frame).loc[("info_nce", 0.)].tolist() == [.1, .3, .3] # means of the others: (.3, .55, .15), (.6, .35, .15), (.6, .3, .2)
    assert best_temperature(frame).loc[0.].tolist() == [.1, .2, .2]
    assert len(trial_frame(list(rows_of([[.9, .1, .2]])), Cell(steps=7))) == 0

def test_certified_temperature_interpolates():
    eta = [2., math.log(2)*2, math.log(2)/2]
    frame = trial_frame(list(rows_of([eta, eta], rate=.5)) + list(rows_of([eta, eta])))
    sure = certified_temperature(frame)
    assert abs(sure[.5] - (.2*.4)**.5) < 1e-9 and math.isnan(sure[0.])

# The command

def numbers(path): return {r["key"]: {k: r[k] for k in (*F.MEASURED, "config", "untrained")} for r in read_rows(path)}

def test_a_killed_command_goes_on_to_the_same_rows(tmp_path):
    options = ["toy", "--steps", "20", "--seeds", "2", "--rates", "0.5", "--losses", "dro,cvar"]
    run = "import sys; from contrastive_nb.cli import main; sys.exit(main(sys.argv[1:]))"
    command = lambda folder: [sys.executable, "-c", run, *options, "--out", str(folder)]
    killed = subprocess.Popen(command(tmp_path/"a"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = tmp_path/"a"/"runs.jsonl"
    deadline = time.time() + 60
    while not (rows.exists() and read_rows(rows)) and time.time() < deadline: time.sleep(.02)
    killed.send_signal(signal.SIGKILL); killed.wait()
    before = read_rows(rows)
    assert 1 <= len(before) < 4
    assert subprocess.run(command(tmp_path/"a"), capture_output=True).returncode == 0
    assert F.toy(steps=20, seeds=2, rates="0.5", losses="dro,cvar", out=str(tmp_path/"b")) == 0
    after = read_rows(rows)
    assert [r["time"] for r in after[:len(before)]] == [r["time"] for r in before]           # finished cells were not made again
    assert len(after) == 4 and numbers(rows) == numbers(tmp_path/"b"/"runs.jsonl")

def test_only_record_touches_the_ledger(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(F, "RUNS", tmp_path/"ledger.jsonl")
    monkeypatch.setattr(F, "require_traceable", lambda what: None)
    options = dict(steps=2, seeds=1, rates="0", losses="dro", out=str(tmp_path/"out"))
    assert F.toy(**options) == 0 and not F.RUNS.exists()
    assert F.toy(**options, record=True) == 0 and numbers(F.RUNS) == numbers(tmp_path/"out"/"runs.jsonl") and len(read_rows(F.RUNS)) == 1
    for bad, message in ((dict(what="cats"), "no laboratory 'cats'"), (dict(losses="triplet"), "no loss 'triplet'"), (dict(rates="0.9"), "rate 0.9 of 30 negatives")):
        with pytest.raises(ValueError, match=message): F.toy(**options | bad)

def test_equal_cells_give_equal_rows():
    cell = Cell("hard_negative", .5, seed=7, **TINY)
    one, two = result(cell), result(cell)
    assert all(one[k] == two[k] for k in F.MEASURED) and len(grid()) == 215 and len({c.key for c in grid()}) == 215
