"The robust values against generic convex solvers, and their laws over a space of similarities, masks, laws and radii."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.optimize import linprog, minimize
from torch.testing import assert_close

from contrastive_nb.robust import (chi2_ball, cvar_ball, effective_sample_size, kl, kl_ball, radius, radius_ceiling, reference, temperature_for_radius, tolerance_radius, top_weight,
    tolerated_rate, worst_case)

torch.set_num_threads(1)
quick = settings(max_examples=60, deadline=None)
numbers = st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6))

@st.composite
def problems(draw, least=2, most=12):
    "Similarities (m,) that are not all equal, and a law over them."
    m = draw(st.integers(least, most))
    f = draw(st.lists(numbers, min_size=m, max_size=m).filter(lambda v: max(v) - min(v) > .01))
    b = draw(st.lists(st.floats(.05, 1), min_size=m, max_size=m))
    b = torch.tensor(b, dtype=torch.double)
    return torch.tensor(f, dtype=torch.double), b/b.sum()

def solved(f, b, eta, spent, slope):
    "Largest mean over the ball {spent(density) <= eta} by SLSQP, from inside; the law returned is inside."
    g, w, q = f.numpy(), b.numpy(), np.ones(len(f))
    for scale in (100, 10, 1):
        ball = dict(type="ineq", fun=lambda q: scale*(eta - w @ spent(q)), jac=lambda q: -scale*w*slope(q))
        mass = dict(type="eq", fun=lambda q: scale*(w @ q - 1), jac=lambda q: scale*w)
        q = minimize(lambda q: -scale*((w*g) @ q), q, jac=lambda q: -scale*w*g, method="SLSQP", bounds=len(g)*[(1e-15, None)], constraints=[mass, ball], options=dict(maxiter=1000, ftol=1e-15)).x
        q = np.maximum(q, 1e-15)/(w @ np.maximum(q, 1e-15))
        out = max(0., 1 - eta/max(w @ spent(q), 1e-300))
        q = (1 - out)*q + out
    return float((w*g) @ q)

@given(problems(), st.floats(.01, .95))
@quick
def test_kl_ball_is_what_a_convex_solver_finds(problem, share):
    f, b = problem
    eta = share*radius_ceiling(f, b).item()
    value, Q = kl_ball(f, eta, b)
    assert_close(Q.sum(), torch.ones((), dtype=torch.double))
    assert_close(kl(Q, b).item(), eta, rtol=1e-6, atol=1e-12)
    found = solved(f, b, eta, lambda q: q*np.log(q), lambda q: np.log(q) + 1)
    assert found <= value.item() + 1e-9 and found >= value.item() - 1e-4*(f.max() - f.min()).item()

@given(problems(), st.floats(.01, .95))
@quick
def test_chi2_ball_is_what_a_convex_solver_finds(problem, share):
    f, b = problem
    eta = share*(1/b[f == f.max()].sum().item() - 1)
    value, Q = chi2_ball(f, eta, b)
    assert (Q >= 0).all()
    assert_close(Q.sum(), torch.ones((), dtype=torch.double))
    assert_close((b*(Q/b - 1)**2).sum().item(), eta, rtol=1e-6, atol=1e-12)
    found = solved(f, b, eta, lambda q: (q - 1)**2, lambda q: 2*(q - 1))
    assert found <= value.item() + 1e-9 and found >= value.item() - 1e-4*(f.max() - f.min()).item()

@given(problems(), st.floats(.05, 1))
@quick
def test_cvar_ball_is_a_linear_programme(problem, alpha):
    f, b = problem
    value, Q = cvar_ball(f, alpha, b)
    found = linprog(-f.numpy(), A_eq=np.ones((1, len(f))), b_eq=[1], bounds=[(0, x/alpha) for x in b.tolist()])
    assert_close(value.item(), -found.fun, rtol=1e-8, atol=1e-9)
    assert (Q <= b/alpha*(1 + 1e-12)).all() and (Q >= 0).all()
    assert_close(Q.sum(), torch.ones((), dtype=torch.double))

@given(problems(), st.floats(-6, 0), st.floats(.5, 3))
@quick
def test_temperature_and_radius_are_inverse(problem, exponent, scale):
    f, b = problem
    eta = 10**exponent*.999*radius_ceiling(f, b).item()
    T = temperature_for_radius(f, eta, b)
    assert_close(radius(f, T, b).item(), eta, rtol=1e-7, atol=0)
    assert_close(kl(worst_case(f, T, b), b).item(), eta, rtol=1e-6, atol=1e-14)
    assert_close(temperature_for_radius(scale*f + 5, eta, b), scale*T, rtol=1e-6, atol=0) # units and origin

@given(problems())
@quick
def test_radius_grows_as_it_gets_colder(problem):
    f, b = problem
    temperatures = torch.logspace(-3, 2, 40, dtype=torch.double)
    eta = radius(f.expand(40, -1), temperatures, b)
    assert (eta.diff() <= 1e-12).all() and (eta >= 0).all() and (eta <= radius_ceiling(f, b) + 1e-12).all()

@given(problems(least=3), st.data())
@quick
def test_a_mask_is_a_shorter_row(problem, data):
    f, _ = problem
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(f), max_size=len(f)).filter(any)))
    for solve in (lambda f, b: kl_ball(f, .3, b), lambda f, b: chi2_ball(f, .8, b), lambda f, b: cvar_ball(f, .4, b)):
        value, Q = solve(f, keep)
        short, q = solve(f[keep], None)
        assert_close(value, short)
        assert_close(Q[keep].sort().values, q.sort().values)
        assert (Q[~keep] == 0).all()
        assert_close(solve(f.masked_fill(~keep, -torch.inf), None)[0], short)

@given(problems(), st.floats(1.0, 5))
@quick
def test_from_the_ceiling_on_the_value_is_the_maximum(problem, factor):
    f, b = problem
    top = radius_ceiling(f, b).item()
    assert_close(kl_ball(f, factor*top, b)[0], f.max())
    assert_close(chi2_ball(f, factor*math.expm1(top)*(1 + 1e-9), b)[0], f.max())
    with pytest.raises(ValueError, match="below the ceiling"): temperature_for_radius(f, factor*top, b)

@given(st.floats(1e-6, .999))
@quick
def test_certificate(rate):
    assert_close(tolerated_rate(tolerance_radius(rate)), rate, rtol=1e-9, atol=0)
    law = torch.tensor([1 - rate, rate], dtype=torch.double)
    assert_close(kl(torch.tensor([1., 0.], dtype=torch.double), law).item(), tolerance_radius(rate), rtol=1e-9, atol=1e-15)

def test_batched_is_row_by_row_and_ties_share():
    f = torch.randn(5, 4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    eta = torch.linspace(.1, 3, 20, dtype=torch.double).view(5, 4)
    T, (value, Q) = temperature_for_radius(f, eta), kl_ball(f, eta)
    for i in range(5):
        for j in range(4):
            assert_close(temperature_for_radius(f[i, j], eta[i, j]), T[i, j], rtol=1e-8, atol=0)
            alone, law = kl_ball(f[i, j], eta[i, j])
            assert_close(law, Q[i, j], rtol=1e-6, atol=1e-9)
            assert_close(alone, value[i, j])
    flat = torch.zeros(2, 6)
    for value, Q in (kl_ball(flat, .5), chi2_ball(flat, .5)): assert_close(Q, torch.full((2, 6), 1/6)); assert_close(value, torch.zeros(2))
    tied = torch.tensor([1., 1., 0., -1.])
    for value, Q in (kl_ball(tied, 5.), chi2_ball(tied, 50.)): assert_close(Q, torch.tensor([.5, .5, 0., 0.])); assert_close(value, torch.tensor(1.))

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype):
    f = torch.randn(3, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for x in (worst_case(f, .1), radius(f, .1), temperature_for_radius(f, 1e-6), *kl_ball(f, .3), *chi2_ball(f, .3), *cvar_ball(f, .3)): assert x.dtype == wide and x.isfinite().all()
    assert_close(radius(f, temperature_for_radius(f, 1e-6)), torch.full((3,), 1e-6, dtype=wide), rtol=2e-3, atol=0)

def test_extreme_temperatures_stay_finite():
    f = torch.rand(4, 100, generator=torch.Generator().manual_seed(2))*2 - 1
    for T in (1e-4, 1e4):
        Q = worst_case(f, T)
        assert Q.isfinite().all() and radius(f, T).isfinite().all() and (radius(f, T) >= 0).all()
        assert_close(Q.sum(1), torch.ones(4))
    assert (effective_sample_size(worst_case(f, 1e4)) > 99.9).all() and (top_weight(worst_case(f, 1e-4)) > .99).all()

def test_reference_does_not_broadcast():
    with pytest.raises(ValueError, match="base must have"): reference(torch.zeros(3, 4), torch.ones(3, 1))
