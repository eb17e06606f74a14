"The exact loss, the cube's laws and the assumption checkers over spaces of inputs, and a training run that is not repeated."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from contrastive_nb.clusters import (anchor_losses, best_error, blur, clean, clusters, cube, curvature, exact_loss, half_cube_gain, images, intertwined, law_loss, modes, multinomial_losses,
    ENCODERS, Trained, pair_laws, preserving, quadrature, regularity, relu_head, splits, train_clusters, train_runs)
from contrastive_nb.ledger import read_rows

torch.set_num_threads(1)
quick = settings(max_examples=40, deadline=None)
betas, seeds = st.floats(.02, 8), st.integers(0, 2**20)

def signs(seed, *size): return torch.randint(2, size, generator=torch.Generator().manual_seed(seed)).double()*2 - 1

def some_law(seed, n):
    p = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.double)**3 + 1e-9
    return p/p.sum()

@given(st.integers(1, 4), betas, st.integers(1, 5), seeds)
@quick
def test_the_integral_is_the_multinomial_sum(d, beta, negatives, seed):
    H = some_law(seed, d + 1)
    assert_close(anchor_losses(H, beta, negatives), multinomial_losses(H.tolist(), beta, negatives), rtol=1e-12, atol=0)

@given(st.integers(1, 5), betas, st.integers(1, 10**6), seeds)
@quick
def test_bounds_that_hold_for_every_number_of_negatives(d, beta, negatives, seed):
    H = some_law(seed, d + 1)
    G, X = anchor_losses(H, beta, negatives), torch.exp(-2*beta*torch.arange(d + 1, dtype=torch.double))
    assert (G >= 0).all() and (G.diff() > 0).all() and (G.diff() <= 2*beta*(1 + 1e-12)).all() # a farther positive costs more, by 2 beta at most
    assert (G <= torch.log1p(negatives*(H @ X)/X)*(1 + 1e-12)).all() # Jensen
    assert_close(anchor_losses(H.repeat(3, 2, 1), beta, negatives), G.expand(3, 2, d + 1), rtol=1e-13, atol=0)

@given(st.integers(1, 3), betas, st.integers(1, 64), seeds)
@quick
def test_the_loss_ignores_the_symmetries_of_the_cube(d, beta, negatives, seed):
    natural, views = signs(seed, 5, d), signs(seed + 1, 5, 2, d)
    flip, order = signs(seed + 2, d), torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    loss = exact_loss(*pair_laws(natural, views), beta, negatives)
    assert_close(exact_loss(*pair_laws(natural[:, order]*flip, views[..., order]*flip), beta, negatives), loss, rtol=1e-12, atol=0)
    assert loss >= exact_loss(*pair_laws(natural, natural[:, None]), beta, negatives) - 1e-12 # clean is best

@given(st.integers(2, 5), betas, st.integers(1, 8), seeds)
@quick
def test_second_variation_is_the_curvature(d, beta, negatives, seed):
    k, u = seed % d + 1, 2.**-d
    chi, eps = cube(d)[:, :k].prod(1), .001
    rise = (law_loss(torch.stack([u*(1 + eps*chi), u*(1 - eps*chi)]), beta, negatives).mean() - law_loss(torch.full((2**d,), u, dtype=torch.double), beta, negatives))/eps**2
    assert_close(rise*2**d, curvature(d, beta, negatives)[k - 1], rtol=1e-3, atol=2**d*1e-8)

@given(st.integers(2, 8), betas)
@quick
def test_half_cube_and_parity_mode_agree(d, beta):
    assert math.isclose(half_cube_gain(d, beta)*2**d, modes(d, beta)[-1].item(), rel_tol=1e-7, abs_tol=1e-12*2**d)

@given(st.integers(1, 6), seeds)
@quick
def test_blurring_keeps_mass_and_contracts(d, seed):
    p = some_law(seed, 2**d)
    assert_close(blur(p).sum(), torch.ones((), dtype=torch.double))
    assert (blur(p) - 2.**-d).square().sum() <= (p - 2.**-d).square().sum()

@given(seeds, st.integers(1, 12), st.integers(2, 4))
@quick
def test_checkers_agree_with_their_definitions(seed, m, contents):
    x = images(signs(seed, m, 2*contents), signs(seed + 1, m, 2*contents, 2), torch.arange(contents).repeat(2))
    cluster = clusters(x)
    for f in range(len(x.natural)):
        values = [set(x.natural[f, cluster == c].tolist()) | set(x.views[f, cluster == c].flatten().tolist()) for c in range(int(cluster.max()) + 1)]
        assert [len(v) > 1 for v in values] == splits(x)[f].tolist() and preserving(x)[f] == all(len(v) == 1 for v in values)
        assert clean(x)[f] == all((x.views[f, i] == x.natural[f, i]).all() for i in range(2*contents))
    if intertwined(x): assert (clean(x) == preserving(x)).all() and regularity(x) > 0
    assert all(len(set(cluster[x.content == c].tolist())) == 1 for c in range(contents)) # contents stay whole

@given(st.integers(1, 4), seeds)
@quick
def test_relu_head_is_a_look_up(d, seed):
    labels = signs(seed, 3, 2**d)
    at = torch.randint(2**d, (7,), generator=torch.Generator().manual_seed(seed))
    assert_close(relu_head(cube(d)[at], labels), labels[:, at])

@given(seeds)
@quick
def test_best_head_is_no_worse_than_any_other(seed):
    mass, task, head = some_law(seed, 12).view(4, 3), signs(seed, 1, 3), signs(seed + 1, 4)
    wrong = (mass*(head[:, None] != task)).sum()
    assert best_error(mass, task)[0] <= wrong + 1e-12

def test_quadrature_refuses_what_it_cannot_integrate():
    for d, beta, negatives in ((0, 1., 1), (2, 0., 1), (2, -1., 1), (2, math.nan, 1), (2, 1., 0)):
        with pytest.raises(ValueError, match="need d >= 1, beta > 0 and at least one negative"): quadrature(d, beta, negatives)

def test_training_skips_what_the_ledger_holds(tmp_path, capsys):
    path, short = tmp_path/"runs.jsonl", dict(steps=3, out=str(tmp_path))
    assert train_clusters(seeds=2, **short) == 0
    rows = read_rows(path)
    assert len(rows) == 6 and {r["config"]["encoder"] for r in rows} == set(ENCODERS) and "rough mlp" in capsys.readouterr().out
    assert all(r["time"] and r["replay"] for r in rows)
    assert train_clusters(seeds=2, **short) == 0 and read_rows(path) == rows

def test_a_seed_does_not_depend_on_its_company():
    runs = [Trained("mlp", seed, steps=10) for seed in range(3)]
    together, alone = train_runs(runs)[0], train_runs(runs[1:2])[0]
    for a, b in zip(together, alone): assert_close(a[1], b[0], rtol=0, atol=1e-6)
