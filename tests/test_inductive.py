"The closed forms of the inductive-bias chapter, the law that it shares with the chapter on sampling, and the stacked training of its encoders."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from contrastive_nb import inductive as I, trained_encoders as E
from contrastive_nb.core import stream
from contrastive_nb.losses import generalized_spectral, info_nce
from contrastive_nb.processes import mixed_positives, mixture_graph
from contrastive_nb.sphere import uniform_sphere

quick = settings(max_examples=15, deadline=None)

@quick
@given(st.floats(.1, 8), st.floats(0, 1))
def test_mixture_graph_has_the_spectrum_of_its_parts(kappa, share):
    z, graph = mixture_graph(kappa, share)
    data, u = graph.sum(1), z[:, 0]
    assert_close(graph, graph.T)
    assert_close(data.sum().item(), 1., rtol=1e-6, atol=0)
    A1 = 1/math.tanh(kappa) - 1/kappa
    for f, A in ((u, A1), (u**2 - 1/3, 1 - 3*A1/kappa)): assert_close(graph @ f, (share*A + 1 - share)*data*f, rtol=0, atol=1e-7)

@pytest.mark.parametrize("share", [0., 1.])
def test_mixed_positives_at_both_ends(share):
    z = uniform_sphere(2000, 3, stream(0, "ends"), torch.double)
    same = (mixed_positives(z, 3., share, stream(1, "ends"))[:, 0] == z[:, 0]).double().mean()
    assert same == 1 - share
    mixed = (mixed_positives(z, 3., .3, stream(1, "ends"))[:, 0] == z[:, 0]).double().mean()
    assert abs(mixed - .7) < .05

@pytest.mark.parametrize("kappa", [2., 10/3, 5.])
def test_quadratic_encoders_turn_at_the_threshold(kappa):
    w = I.sampling_threshold(kappa)[0]
    at = lambda degree, share: I.recovered_share(degree, *mixture_graph(kappa, share)[::-1])
    assert abs(at(2, w - .01) - 2/3) < 1e-6 and abs(at(2, w + .01) - 1) < 1e-6 and abs(at(1, .02) - 1) < 1e-6

@quick
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(.05, 5))
def test_no_perturbation_beats_the_minimiser(seed, k, lam):
    g = stream(seed, "minimiser")
    draw = lambda *size: torch.randn(*size, generator=g, dtype=torch.double)
    moments = I.pair_moments(draw(60, 5), draw(60, 5))
    U = I.minimiser(moments, k, lam)
    for scale in (1e-3, .1, 1.): assert I.population_loss(U + scale*draw(k, 5), moments, lam) >= I.population_loss(U, moments, lam) - 1e-12

@quick
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 12), st.integers(1, 5), st.floats(.1, 3))
def test_stacked_losses_are_the_librarys(seed, runs, n, k, scale):
    g = stream(seed, "stacked")
    z1, z2 = torch.randn(runs, n, k, generator=g).double(), torch.randn(runs, n, k, generator=g).double()
    T = scale*torch.arange(1, runs + 1).double()
    for r in range(runs):
        assert_close(E.stacked_spectral(z1, z2, scale)[r], generalized_spectral(z1[r], z2[r], scale))
        assert_close(E.stacked_info_nce(z1, z2, T)[r], info_nce(z1[r], z2[r], T[r].item()))

def test_training_is_reproducible_and_leaves_its_start():
    weights = E.start("linear", 3, 2, 5, stream(0, "train"))
    kept, run = [w.clone() for w in weights], lambda: E.train("linear", weights, E.cube_pairs(5, 2), E.stacked_spectral, 400, .05, stream(1, "train"))
    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(weights, kept)) and all(torch.equal(a, b) for a, b in zip(first, second))
    alone = E.train("linear", [w[1:2] for w in weights], E.cube_pairs(5, 2), E.stacked_spectral, 400, .05, stream(1, "train"))
    assert_close(alone[0][0], first[0][1], rtol=1e-3, atol=1e-3) # runs of a stack do not know of each other
    target = I.corners(5)[:, :2]/2**.5
    before, after = (max(r["error"] for r in E.scores("linear", w, E.cube_pairs(5, 2), target)) for w in (weights, first))
    assert after < .1 < before

def test_digit_views_are_shifts():
    plain, cyclic = I.digit_views(), I.digit_views(cyclic=True)
    assert plain.points.shape == (1797, 9, 64) and torch.equal(plain.points[:, 4], plain.natural) and torch.equal(cyclic.points[:, 4], plain.natural)
    assert_close(cyclic.points.sum(2), plain.natural.sum(1, keepdim=True).expand(-1, 9))
    assert torch.equal(plain.points[5, 0].view(8, 8)[:-1, :-1], plain.natural[5].view(8, 8)[1:, 1:])

@pytest.mark.parametrize("T", [.1, .5, 2.])
def test_loss_of_the_zero_modes(T):
    bits = I.corners(5)[:, :2].double()
    assert_close(info_nce(bits, bits, T).item(), E.bits_loss(T, 5, 2))
    code = torch.nn.functional.one_hot(I.corner_code(bits), 4).double()
    assert_close(info_nce(code, code, T).item(), E.patterns_loss(T, 5, 2))
