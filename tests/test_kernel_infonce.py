"Maximum entropy, mixtures and the small contests over spaces of inputs, and what is refused."
import math
from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from contrastive_nb import kernel_infonce as K
from contrastive_nb.ledger import read_rows
from contrastive_nb.kernels import Concat, Exponential, gaussian, laplacian
from contrastive_nb.losses import kernel_info_nce, nt_xent
from contrastive_nb.runs import complete

torch.set_num_threads(1)
quick = settings(max_examples=30, deadline=None)
seeds, temperatures = st.integers(0, 2**31 - 1), st.floats(.05, 5)
def rows(seed, *shape, dtype=torch.float64): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

@given(seeds, st.integers(2, 40), temperatures)
@quick
def test_softmax_beats_every_rival(seed, m, T):
    psi, rivals = 4*rows(seed, m).abs(), (3*rows(seed + 1, 50, m)).softmax(1)
    best = K.violation(K.gibbs(psi, T), psi, T)
    assert (K.violation(rivals, psi, T) < best + 1e-12).all()
    assert_close(best, psi[0] + T*(-psi/T).logsumexp(0))

@given(seeds, st.integers(1, 20))
@quick
def test_projection_is_the_nearest_point(seed, m):
    x = 2*rows(seed, m)
    p = K.simplex_projection(x)
    assert p.min() >= 0 and abs(p.sum() - 1) < 1e-12
    q = rows(seed + 1, 100, m).softmax(1)
    assert ((q - p) @ (x - p)).max() <= 1e-12 # the obtuse-angle criterion

def test_constrained_maxent_has_the_other_sign():
    psi = torch.tensor([3., 1., 2., 4., .5], dtype=torch.double)
    up, down = K.constrained_maxent(psi), K.constrained_maxent(psi, -1)
    assert up[psi.argmax()] == max(up) and abs(up @ psi.numpy() - 3) < 1e-6
    assert_close(torch.from_numpy(down), torch.full((5,), .2, dtype=torch.double), rtol=0, atol=1e-6) # the average is below the partner's energy already

@pytest.mark.parametrize("gamma", [.3, 1., 1.9, 2.])
@given(seed=seeds, T=temperatures, d=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_positive_definite_up_to_two(gamma, seed, T, d):
    x = rows(seed, 20, d)
    assert K.gram_floor(Exponential(gamma), x, T) > -1e-12
    assert K.gram_floor(laplacian*Exponential(gamma), x, T) > -1e-12
    assert K.gram_floor(Concat((laplacian, Exponential(gamma))), torch.cat([x, x.flip(0)], 1), T) > -1e-12

@given(st.floats(2.05, 5), st.floats(.01, 100), st.booleans())
@quick
def test_three_points_defeat_larger_exponents(gamma, T, circle):
    if circle: T = min(T, 10.) # the circle has no large distances
    assert K.gram_floor(Exponential(gamma), K.three_points((1e-3*T)**(1/gamma), circle), T) < 0

def test_three_points_lie_where_they_say():
    line, circle = K.three_points(.3), K.three_points(.3, True)
    assert_close(line[:, 0].diff(), torch.full((2,), .3, dtype=torch.double))
    assert_close(circle.norm(dim=1), torch.ones(3, dtype=torch.double))
    assert_close((circle[0]*circle[1]).sum().acos().item(), .3)

@given(seeds, temperatures, st.floats(.05, .95), st.integers(2, 12))
@quick
def test_mixtures_in_order(seed, T, weight, n):
    z1, z2 = rows(seed, n, 4), rows(seed + 1, n, 4)
    m = K.mixtures(z1, z2, T, weight)
    assert (m.mix - m.product).min() > -1e-12
    partner = torch.arange(2*n).roll(n)
    Q = m.log_Q[:, torch.arange(2*n), partner].exp()
    assert (m.mix + (weight*Q[0] + (1 - weight)*Q[1]).log()).min() > -1e-12
    assert_close(m.log_Q.exp().sum(2), torch.ones(2, 2*n, dtype=torch.double))

@given(seeds, st.floats(.3, 2), st.sampled_from([.5, 1., 2.]), st.floats(0, 1))
@quick
def test_released_loss_is_the_code(seed, T, gamma, weight):
    z1, z2 = (torch.nn.functional.normalize(rows(s, 6, 4)) for s in (seed, seed + 1))
    literal = weight*K.literal_gamma_loss(z1, z2, gamma, T) + (1 - weight)*K.literal_gamma_loss(z1, z2, 2., T)
    assert_close(K.released_loss(3*z1, z2, T, gamma, weight, reduction="none"), literal, rtol=1e-3, atol=1e-3) # the lengths of rows do not matter
    halves = weight*K.literal_gamma_loss(z1[:, :2], z2[:, :2], gamma, T) + (1 - weight)*K.literal_gamma_loss(z1[:, 2:], z2[:, 2:], 2., T)
    assert_close(K.released_loss(z1, z2, T, gamma, weight, "product", "none"), halves, rtol=1e-3, atol=1e-3)
    assert_close(K.released_loss(z1, z2, T, gamma, 0.), nt_xent(z1, z2, T/2)) # T = 2 tau

@pytest.mark.parametrize("kernel", K.CONTENDERS)
def test_contenders_by_their_formulas(kernel):
    z1, z2, run = rows(0, 6, 4), rows(1, 6, 4), K.KernelRun(kernel=kernel, temperature=.4, ratio=2., weight=.3)
    u = torch.nn.functional.normalize(torch.cat([z1, z2]))
    d, halves = torch.cdist(u, u), [torch.cdist(h, h) for h in u.chunk(2, 1)]
    log_k = {"Gaussian": -d**2/.8, "Laplacian": -d/.4, "gamma 1/2": -d**.5/.4, "simple sum": torch.logaddexp(-d/.4, -d**2/.8),
        "concatenation sum": torch.logaddexp(-halves[0]/.4, -halves[1]**2/.8), "product": -.3*d/.4 - .7*d**2/.8}
    drop = lambda l: l.masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    loss = lambda l: torch.nn.functional.cross_entropy(drop(l), torch.arange(12).roll(6))
    want = .3*loss(-d/.4) + .7*loss(-d**2/.8) if kernel == "mixture of losses" else loss(log_k[kernel])
    assert_close(K.contender_loss(z1, z2, run), want)

def test_small_data_are_what_they_say():
    for name, width in (("digits", 64), ("mixture", 16)):
        data, g = K.small_data(name), torch.Generator().manual_seed(0)
        a, b = data.cuts
        assert 0 < a < b < len(data.x) == len(data.y) and K.VIEWS[name](data.x[:5], g).shape == (5, width)
        assert (K.VIEWS[name](data.x[:5], g) != K.VIEWS[name](data.x[:5], g)).any()
    x = K.small_data("mixture").x[:400]
    seen = torch.cat([K.hide_in_noise(x, torch.Generator().manual_seed(1)), torch.ones(400, 1)], 1)
    assert (seen @ torch.linalg.lstsq(seen, x).solution - x).square().mean() < .01 # a linear map finds the plane again
    assert_close(torch.cat([K.small_data("digits").x], 0).max().item(), 1.)

def test_contest_resumes(tmp_path, monkeypatch):
    "A finished contest is not held again, and equal protocols give equal rows."
    short, ledgers = K.Contest("mixture", "Laplacian", trials=2, tuning_seeds=1, seeds=2, steps=3), [tmp_path/"runs.jsonl"]
    first, = complete("kernels-small", [short], K.hold_contest, ledgers)
    assert len(first["validation"]) == 2 and len(first["linear"]) == len(first["knn"]) == 2
    best = max(range(2), key=lambda t: sum(first["validation"][t]))
    assert K.KernelRun(**first["chosen"]) == K.drawn_run(short, best)
    assert K.hold_contest(short) == {k: first[k] for k in ("validation", "chosen", "linear", "knn")}
    assert complete("kernels-small", [short], lambda c: pytest.fail("held again"), ledgers) == [first] and len(read_rows(ledgers[0])) == 1

def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(K, "RUNS", tmp_path/"package.jsonl")
    monkeypatch.setattr(K, "require_traceable", lambda what: None)
    monkeypatch.setattr(K.Contest, "__init__", partialmethod(K.Contest.__init__, trials=2, tuning_seeds=1, seeds=2, steps=3))
    assert K.contest("mixture", "Laplacian,product", out=str(tmp_path), record=True) == 0
    assert "Laplacian" in capsys.readouterr().out and len(read_rows(tmp_path/"runs.jsonl")) == len(read_rows(tmp_path/"package.jsonl")) == 2
    with pytest.raises(ValueError, match="no contender 'cosine'; there are Gaussian"): K.contest("digits", "cosine")
    with pytest.raises(ValueError, match="no data set 'faces'; there are digits, mixture"): K.contest("faces")

def test_draws_are_shared():
    one, two = (K.drawn_run(K.Contest("digits", k), 3) for k in ("Gaussian", "simple sum"))
    assert replace(one, kernel="simple sum") == two and K.drawn_run(K.Contest(), 3) != K.drawn_run(K.Contest(), 4)
    assert all(.05 <= K.drawn_run(K.Contest(), t).temperature <= 1 and .25 <= K.drawn_run(K.Contest(), t).ratio <= 4 for t in range(20))

def test_training_moves_the_encoder():
    run = K.KernelRun("digits", "simple sum", steps=30)
    before, after = K.small_encoder(run, 64)[0], K.train_small(run)[0]
    assert (before[0].weight - after[0].weight).abs().max() > 1e-3
    assert_close(K.train_small(run)[0][0].weight, after[0].weight)
    assert K.small_encoder(replace(run, kernel="concatenation sum"), 64)[1][-1].out_features == 2*run.dim

def test_ahead_of_pairs_seeds():
    rows_ = [dict(config=dict(data="digits", kernel=k), linear=v, knn=v) for k, v in zip(K.CONTENDERS, [[.5, .9]] + 6*[[.6, 1.]])]
    gap = K.ahead_of(K.contest_frame(rows_), "digits")
    assert_close(torch.tensor(gap["mean"].values), torch.full((6,), 10., dtype=torch.double))
    assert gap.se.max() < 1e-9 and "Gaussian" not in gap.index

@pytest.mark.parametrize("call, message", [
    (lambda: K.gibbs(torch.ones(3), -1), "temperature must be > 0, not -1"),
    (lambda: K.violation(torch.ones(2), torch.ones(3), 1.), r"\(2,\) against \(3,\)"),
    (lambda: K.violation(torch.tensor([2., -1]), torch.ones(2), 1.), "simplex: least -1"),
    (lambda: K.released_loss(torch.ones(2, 4), torch.ones(2, 4), weight=-1), r"weight must be in \[0, 1\], got -1"),
    (lambda: K.released_loss(torch.ones(2, 4), torch.ones(2, 4), how="x"), "how must be 'sum' or 'product'"),
    (lambda: K.small_data("x"), "data must be 'digits' or 'mixture'"),
    (lambda: K.contender_loss(torch.ones(2, 4), torch.ones(2, 4), K.KernelRun(kernel="x")), "no contender 'x'")])
def test_refused(call, message):
    with pytest.raises(ValueError, match=message): call()

def test_kernel_sum_is_not_the_mixture_of_losses():
    z1, z2 = rows(0, 8, 4), rows(1, 8, 4)
    sums, mixed = kernel_info_nce(z1, z2, .4, .5*K.K1 + .5*K.K2), K.released_loss(z1, z2, .4, 1., .5)
    assert abs(sums - mixed) > .01 and math.isfinite(mixed) and gaussian is not laplacian
