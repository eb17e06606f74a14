"Samplers against densities, densities against integrals, quadrature against closed forms, and every refusal."
import math
import mpmath, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import integrate, stats
from torch.nn.functional import normalize
from torch.testing import assert_close
from contrastive_nb import sphere
from contrastive_nb.sphere import (cap_rule, cosine_logpdf, cosine_rule, haar_orthogonal, log_area, log_mgf, mean_resultant, require_kappa, require_unit, slice_concentration, slice_rule,
                                   sphere_rule, uniform_slice, uniform_sphere, vmf, vmf_cap, vmf_cap_logpdf, vmf_logpdf, vmf_slice, vmf_slice_logpdf, zonal)

D = torch.float64
seeds = st.integers(0, 2**31-1)
def gen(seed): return torch.Generator().manual_seed(seed)
def e1(k): return torch.eye(k, dtype=D)[0]
def moment(k, p): return 0. if p%2 else float(math.prod((2*i+1)/(k+2*i) for i in range(p//2)))
def cdf(t, k, kappa=0., angle=math.pi, points=100_001):
    "Distribution function of the cosine, by the trapezoid rule in the angle; shares nothing with the library."
    theta = np.linspace(0, np.nextafter(angle, 0), points)
    with np.errstate(divide="ignore"): logp = kappa*np.cos(theta) + ((k-2)*np.log(np.sin(theta)) if k > 2 else 0)
    p = np.exp(logp - logp.max()); c = np.concatenate([[0], np.cumsum((p[1:] + p[:-1])/2)])
    return 1 - np.interp(np.arccos(np.clip(t, -1, 1)), theta, c/c[-1])
def ks(t, *law): return stats.kstest(np.asarray(t), lambda x: cdf(x, *law)).pvalue
def tangents(z, mean):
    "Coordinates of the tangent directions in a basis of the mean's orthogonal complement, which must be uniform."
    basis = torch.linalg.svd(mean[None], full_matrices=True)[2][1:]
    return normalize(z@basis.T, dim=-1)

# special functions
@pytest.mark.parametrize("k", [1, 2, 3, 10, 256, 1500, 5000])
def test_log_mgf_and_mean_resultant_against_40_digits(k):
    kappa = [1e-8, 1e-3, .3, 1.2, 5., 20., 100., 700., 1e4]
    with mpmath.workdps(40):
        m = [float(mpmath.log(mpmath.hyp0f1(mpmath.mpf(k)/2, mpmath.mpf(x)**2/4))) for x in kappa]
        a = [float(mpmath.besseli(mpmath.mpf(k)/2, x)/mpmath.besseli(mpmath.mpf(k)/2-1, x)) for x in kappa]
    assert_close(log_mgf(torch.tensor(kappa, dtype=D), k), torch.tensor(m, dtype=D), rtol=1e-12, atol=0)
    assert_close(mean_resultant(torch.tensor(kappa, dtype=D), k), torch.tensor(a, dtype=D), rtol=1e-11, atol=0)

def test_special_functions_keep_shape_and_dtype():
    assert log_mgf(0, 5).item() == 0 and mean_resultant(0., 5).item() == 0
    for f in (log_mgf, mean_resultant):
        assert f(torch.ones(2, 3), 4).shape == (2, 3) and f(torch.ones(2, 3), 4).dtype == torch.float32 and f(2, 4).dtype == D and f(torch.tensor([2]), 4).dtype == D
        assert_close(f(torch.tensor([3e-3, 3., 900.]), 4).double(), f(torch.tensor([3e-3, 3., 900.], dtype=D), 4), rtol=2e-7, atol=0)
        assert f(torch.zeros(0), 4).shape == (0,)
    assert_close([math.exp(log_area(k)) for k in (1, 2, 3, 4)], [2., 2*math.pi, 4*math.pi, 2*math.pi**2])

@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_special_functions_are_differentiable_in_kappa(k):
    kappa = torch.tensor([.3, 2., 40.], dtype=D, requires_grad=True)
    for f in (log_mgf, mean_resultant): assert torch.autograd.gradcheck(lambda x: f(x, k), kappa) and torch.autograd.gradgradcheck(lambda x: f(x, k), kappa)
    zero = torch.zeros(1, dtype=D, requires_grad=True)
    assert torch.autograd.grad(log_mgf(zero, k).sum(), zero)[0] == 0

def test_mean_resultant_never_passes_one():
    "At a concentration of 1e8 rounding alone would."
    for k in (1, 2, 3, 8): assert 1 - 1e-6 < mean_resultant(torch.logspace(7, 8, 500, dtype=torch.float64), k).max() <= 1


@given(k=st.integers(1, 300), kappa=st.floats(1e-3, 1e4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_mean_resultant_is_the_slope_and_obeys_riccati(k, kappa):
    a = mean_resultant(kappa, k).item(); h = max(kappa*1e-4, 1e-4)
    assert 0 < a <= 1
    if kappa > 2*h: assert_close((log_mgf(kappa+h, k) - log_mgf(kappa-h, k)).item()/(2*h), a, rtol=1e-5, atol=1e-7)
    slope = 1 - a*a - (k-1)/kappa*a
    assert_close((mean_resultant(kappa+h, k) - mean_resultant(kappa-h, k)).item()/(2*h), slope, rtol=1e-4, atol=1e-6)

# quadrature
@given(k=st.integers(1, 300), n=st.integers(2, 60))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_cosine_rule_is_gauss(k, n):
    t, w = cosine_rule(k, n)
    assert t.dtype == w.dtype == D and (t.diff() > 0).all() and (w >= 0).all() and t.abs().max() <= 1 and len(t) == (n if k > 1 else 2)
    top = 2*len(t) - 1 if k > 1 else 9
    for p in {0, 1, 2, min(top-1, 40), min(top, 41)}: assert_close((w*t**p).sum().item(), moment(k, p), rtol=1e-8, atol=1e-15)
    if k > 1 and n < 10: assert abs((w*t**(2*n)).sum().item()/moment(k, 2*n) - 1) > 1e-9   # and no better than Gauss
def test_cosine_rule_default_and_tails():
    assert len(cosine_rule(3)[0]) == 200
    t, w = cosine_rule(256, 1000)                                                         # relative accuracy where the weights are tiny
    assert_close(torch.logsumexp(w.log() + 1e4*t, 0), log_mgf(1e4, 256), rtol=1e-11, atol=0)
    assert cosine_rule(2000, 900)[1].isfinite().all()                                     # weights below 1e-308 are 0, never nan

@pytest.mark.parametrize("k", [2, 3, 7])
def test_zonal(k):
    t, w = cosine_rule(k, 30); P = torch.stack([zonal(l, t, k) for l in range(7)])
    size = torch.tensor([math.comb(l+k-1, l) - (math.comb(l+k-3, l-2) if l > 1 else 0) for l in range(7)], dtype=D)
    assert_close((P*w)@P.T, (1/size).diag(), rtol=1e-12, atol=1e-13)
    one = torch.ones(1, dtype=D)
    for l in range(7): assert_close(zonal(l, one, k), one)

@pytest.mark.parametrize("k", [2, 3, 4])
def test_sphere_rule(k):
    z, w = sphere_rule(k, 12)
    assert z.shape == (2*12**(k-1), k) and w.shape == (len(z),) and z.dtype == w.dtype == D
    assert_close(z.norm(dim=1), torch.ones(len(z), dtype=D)); assert_close(w.sum().item(), 1.)
    for a in uniform_sphere(5, k, gen(0), D):
        assert_close((w*(3*z@a).exp()).sum().log(), log_mgf(3., k), rtol=1e-11, atol=0)
        for p in range(1, 9): assert_close((w*(z@a)**p).sum().item(), moment(k, p), rtol=1e-10, atol=1e-14)
    assert len(sphere_rule(2)[0]) == 64
def test_sphere_rule_has_a_limit_of_twenty_million_nodes(monkeypatch):
    def reached(*_): raise InterruptedError
    monkeypatch.setattr(sphere, "cosine_rule", reached)
    with pytest.raises(InterruptedError): sphere_rule(3, 3162)
    with pytest.raises(ValueError, match="2.0e[+]07 nodes for dimension 3 and n = 3163"): sphere_rule(3, 3163)

@given(m=st.integers(0, 150), l=st.integers(0, 150))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_slice_rule_is_the_beta_law(m, l):
    if m + l < 2: return
    q, r, w = slice_rule(m+l, m)
    assert_close(q**2 + r**2, torch.ones_like(q)); assert_close(w.sum().item(), 1.)
    if m and l:
        beta = stats.beta(m/2, l/2)
        for p in (1, 2, 3): assert_close((w*q**(2*p)).sum().item(), float(beta.moment(p)), rtol=1e-10, atol=0)
        assert_close((w*r).sum().item(), math.exp(math.lgamma((l+1)/2) + math.lgamma((m+l)/2) - math.lgamma(l/2) - math.lgamma((m+l+1)/2)), rtol=1e-10, atol=0)
    else: assert (q.tolist(), r.tolist(), w.tolist()) == ([float(m > 0)], [float(m == 0)], [1.])

@pytest.mark.parametrize("k,m,tau", [(2,1,.5), (3,1,.3), (3,2,.3), (10,4,.1), (64,63,.2)])
def test_slice_rule_splits_the_kernel(k, m, tau):
    q, r, w = slice_rule(k, m, 150)
    inner = torch.logsumexp(w.log() + log_mgf(q[:,None]*q/tau, m) + log_mgf(r[:,None]*r/tau, k-m), 1)
    assert_close(inner, log_mgf(1/tau, k).expand(150), rtol=1e-10, atol=1e-11)

@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_cap_rule(k):
    for angle in (.3, 1.2, math.pi/2, 2.5, math.pi):
        t, w = cap_rule(k, angle)
        assert len(t) == 200 and t.min() >= math.cos(angle) - 1e-12
        mass = stats.beta((k-1)/2, (k-1)/2).sf((1+math.cos(angle))/2)
        assert_close(w.sum().item(), mass, rtol=1e-9, atol=1e-13)
        first = integrate.quad(lambda a: math.cos(a)*math.sin(a)**(k-2), 0, angle)[0]/integrate.quad(lambda a: math.sin(a)**(k-2), 0, math.pi)[0]
        assert_close((w*t).sum().item(), first, rtol=1e-7, atol=1e-13)

# densities
@given(seed=seeds, k=st.integers(2, 64), kappa=st.floats(.1, 5000))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_vmf_density_is_scipys(seed, k, kappa):
    z, mean = uniform_sphere(4, k, gen(seed), D), uniform_sphere(1, k, gen(seed+1), D)
    ref = stats.vonmises_fisher(mean[0].numpy(), kappa).logpdf(z.numpy())
    assert_close(vmf_logpdf(z, mean, kappa) - log_area(k), torch.as_tensor(ref), rtol=1e-9, atol=1e-7)
@pytest.mark.parametrize("k,kappa", [(2,0.), (2,3.), (3,0.), (3,40.), (10,7.), (256,1e4), (256,1e-5)])
def test_cosine_density_integrates_to_one(k, kappa):
    theta = (torch.arange(100_000, dtype=D) + .5)*math.pi/100_000
    p = cosine_logpdf(theta.cos(), k, kappa).exp()*theta.sin()*math.pi/100_000
    assert_close(p.sum().item(), 1., rtol=1e-7, atol=0); assert_close((p*theta.cos()).sum(), mean_resultant(kappa, k), rtol=1e-6, atol=1e-8)
    if not kappa: assert_close(cosine_logpdf(theta.cos(), k), cosine_logpdf(theta.cos(), k, 0.))
def test_vmf_density_takes_one_kappa_per_row():
    z, mean, kappa = uniform_sphere(3, 4, gen(0), D), uniform_sphere(3, 4, gen(1), D), torch.tensor([0., 1., 9.], dtype=D)
    assert_close(vmf_logpdf(z, mean, kappa), torch.stack([vmf_logpdf(z[i], mean[i], kappa[i]) for i in range(3)])); assert vmf_logpdf(z, mean, kappa)[0] == 0

@given(seed=seeds, k=st.integers(2, 20), data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_restricted_slice_density_is_the_conditioned_one(seed, k, data):
    m = data.draw(st.integers(0, k-1)); rng = gen(seed)
    a = uniform_sphere(3, k, rng, D); z = uniform_slice(a, m, rng, 7)
    c = slice_concentration(a[:,m:].norm(dim=1), 4.)
    diff = vmf_logpdf(z, a[:,None], 4.) - vmf_slice_logpdf(z, a[:,None], 4., m)
    assert_close(diff, diff[:,:1].expand(3, 7), rtol=1e-9, atol=1e-9)
    assert_close(diff[:,0], 4*a[:,:m].square().sum(1) + log_mgf(c, k-m) - log_mgf(4., k), rtol=1e-9, atol=1e-9)
    constant = vmf_slice_logpdf(z, a[:,None], 4., m, "constant"); r2 = a[:,None,m:].square().sum(-1)
    assert_close(constant, 4*(a[:,None,m:]*z[...,m:]).sum(-1)/r2 - log_mgf(4., k-m), rtol=1e-8, atol=1e-8)
    if m: assert torch.isneginf(vmf_slice_logpdf(-z, a[:,None], 4., m)).all()
def test_slice_density_of_the_whole_anchor():
    a = uniform_sphere(3, 4, gen(0), D)
    assert vmf_slice_logpdf(a, a, 2., 4).tolist() == [0.]*3 and torch.isneginf(vmf_slice_logpdf(a.flip(0), a, 2., 4)[[0, 2]]).all()

# samplers
@pytest.mark.parametrize("k", [2, 3, 10, 256])
def test_uniform(k):
    z = uniform_sphere(20_000, k, gen(k), D); a = uniform_sphere(1, k, gen(99), D)[0]
    assert ks(z@a, k) > .005 and z.mean(0).norm() < 2.2/20_000**.5 and (z.T@z/20_000 - torch.eye(k, dtype=D)/k).abs().max()*k < .1
    assert_close(z.norm(dim=1), torch.ones(20_000, dtype=D), rtol=0, atol=1e-14)
    assert uniform_sphere((2, 3), k).shape == (2, 3, k) and uniform_sphere(2, k).dtype == torch.get_default_dtype()

@pytest.mark.parametrize("k", [2, 3, 10, 256])
@pytest.mark.parametrize("kappa", [0., 1e-3, 1., 30., 1e4])
def test_vmf_law(k, kappa):
    rng = gen(100*k + int(kappa)); mean = uniform_sphere(1, k, rng, D)[0]
    z = vmf(mean, kappa, rng, draws=6000); t, x = z@mean, tangents(z, mean)
    A = mean_resultant(kappa, k).item(); var = 1 - A*A - ((k-1)*A/kappa if kappa else (k-1)/k)
    assert abs(t.mean().item() - A) < 4*(var/6000)**.5 and abs(t.var().item()/var - 1) < .15
    assert ks(t, k, kappa) > .003
    assert (stats.binomtest(int((x > 0).sum()), 6000).pvalue if k == 2 else ks(x[:,0], k-1)) > .003
    assert x.mean(0).norm() < 3/6000**.5 and (z.norm(dim=1) - 1).abs().max() < 1e-13

@given(seed=seeds, k=st.integers(2, 12))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_vmf_reflects_to_any_mean(seed, k):
    rng = gen(seed); mean = torch.cat([uniform_sphere(20, k, rng, D), e1(k)[None], -e1(k)[None], torch.eye(k, dtype=D)[-1:]])
    z = vmf(mean, 1e8, rng)                                                               # so concentrated that a draw is its mean
    assert_close(z, mean, rtol=0, atol=5e-3)
    pole = vmf(e1(k).expand(20, k), 2., gen(seed+1)); moved = vmf(mean[:20], 2., gen(seed+1))  # the same draws, carried by an isometry
    assert_close((moved*mean[:20]).sum(1), pole[:,0])

def test_vmf_one_kappa_per_row_and_float32():
    rng = gen(5); mean = uniform_sphere(60_000, 8, rng); kappa = 10**(5*torch.rand(60_000, generator=rng) - 1)
    z = vmf(mean, kappa, rng); A = mean_resultant(kappa.double(), 8); score = ((z*mean).sum(1).double() - A)/(1 - A**2 - 7*A/kappa.double()).sqrt()
    assert z.dtype == torch.float32 and z.isfinite().all() and (z.norm(dim=1) - 1).abs().max() < 2e-6
    calm = kappa < 3000                                                                   # above, float32 rounding of a cosine near 1 is visible
    assert abs(score[calm].mean().item()) < 4/calm.sum()**.5 and abs(score[calm].std().item() - 1) < .02
    assert abs((z - mean).square().sum(1)[~calm].double().div(2*(1-A[~calm])).mean().item() - 1) < .03

def test_shapes_draws_and_reproducibility():
    mean = uniform_sphere((2, 3), 5, gen(0), D); kappa = torch.tensor([[1., 2., 3.]]*2, dtype=D)
    for f in (lambda **a: vmf(mean, kappa, gen(1), **a), lambda **a: vmf_slice(mean, kappa, 2, gen(1), **a), lambda **a: uniform_slice(mean, 2, gen(1), **a), lambda **a: vmf_cap(mean, 2., .5, gen(1), **a)):
        assert f().shape == (2, 3, 5) and f(draws=4).shape == (2, 3, 4, 5) and f(draws=1).shape == (2, 3, 1, 5) and torch.equal(f(draws=4), f(draws=4)) and f().dtype == D
    many = vmf(mean, torch.tensor([1e6, 1e6, 0.], dtype=D), gen(2), draws=50)               # each copy keeps its mean and its kappa
    close = (many*mean[:,:,None]).sum(-1)
    assert close[:,:2].min() > .99 and close[:,2].min() < .5

def slice_p(k, m, kappa, rule, seed, n=100, draws=20):
    rng = gen(seed); a = uniform_sphere(n, k, rng, D); z = vmf_slice(a, kappa, m, rng, draws, rule); r = a[:,m:].norm(dim=1)
    assert torch.equal(z[...,:m], a[:,None,:m].expand(n, draws, m)) and (z.norm(dim=-1) - 1).abs().max() < 1e-13
    c = kappa*r**2 if rule == "restricted" else torch.full_like(r, kappa)
    t = (z[...,m:]*a[:,None,m:]).sum(-1)/r[:,None]**2
    if k-m > 1: return stats.kstest(np.concatenate([cdf(x, k-m, y, math.pi, 3001) for x, y in zip(t.numpy(), c.tolist())]), "uniform").pvalue
    p = 1/(1+(-2*c).exp())
    return 2*stats.norm.sf(abs(((((t > 0).double().mean(1) - p)*draws).sum()/(p*(1-p)*draws).sum()**.5).item()))
@pytest.mark.parametrize("k,m,kappa", [(2,1,1.), (3,1,8.), (3,2,1.), (10,4,20.), (10,9,1.5), (10,0,3.), (3,1,0.), (3,2,0.)])
@pytest.mark.parametrize("rule", ["restricted", "constant"])
def test_slice_law(k, m, kappa, rule): assert slice_p(k, m, kappa, rule, 11) > .003
def test_slice_laws_differ_and_the_default_is_equation_6():
    a = uniform_sphere(4000, 3, gen(0), D); a = a[a[:,1:].norm(dim=1) < .4]
    def mean_cosine(**how): z = vmf_slice(a, 5., 1, gen(1), 20, **how); return ((z*a[:,None])[...,1:].sum(-1)/a[:,None,1:].square().sum(-1)).mean().item()
    assert mean_cosine() == mean_cosine(concentration="restricted") < .4 < .8 < mean_cosine(concentration="constant")
    assert_close(slice_concentration(torch.tensor([.5]), 4.), torch.tensor([1.])); assert_close(slice_concentration(torch.tensor([.5]), 4., "constant"), torch.tensor([4.]))
def test_slice_edges():
    a = uniform_sphere(5, 4, gen(0), D); z = vmf_slice(a, 2., 4, gen(1), 3)
    assert torch.equal(z, a[:,None].expand(5, 3, 4))
    pole = torch.tensor([[1., 0., 0.]], dtype=D)                                            # a slice of radius 0
    assert torch.equal(vmf_slice(pole, 2., 1, gen(1), 6), pole[:,None].expand(1, 6, 3)) and vmf_slice_logpdf(pole, pole, 2., 1).item() == 0
    assert uniform_slice(a, 3, gen(1), 4000)[...,3].sign().mean(1).abs().max() < .08

@pytest.mark.parametrize("k,kappa,degrees", [(2,0.,90), (2,20.,30), (3,10/3,60), (3,10/3,180), (10,1e4,90), (64,5.,45), (256,0.,20), (256,1e4,10), (3,0.,1)])
def test_cap_law(k, kappa, degrees):
    angle, rng = math.radians(degrees), gen(k+degrees); mean = uniform_sphere(1, k, rng, D)[0]
    z = vmf_cap(mean, kappa, angle, rng, 6000); t, x = z@mean, tangents(z, mean)
    assert t.min() >= math.cos(angle) - 1e-12 and ks(t, k, kappa, angle) > .003 and (z.norm(dim=1) - 1).abs().max() < 1e-13
    assert (stats.binomtest(int((x > 0).sum()), 6000).pvalue if k == 2 else ks(x[:,0], k-1)) > .003
    inside = t > math.cos(angle)*(1 + 1e-12) + 1e-14; p = vmf_cap_logpdf(z[inside], mean, kappa, angle); theta = np.linspace(0, angle, 200_001)
    with np.errstate(divide="ignore"): logf = kappa*np.cos(theta) + ((k-2)*np.log(np.sin(theta)) if k > 2 else 0)
    mass = logf.max() + math.log(np.trapezoid(np.exp(logf-logf.max()), theta)) + math.lgamma(k/2) - math.lgamma((k-1)/2) - math.log(math.pi)/2
    assert_close(p, kappa*t[inside] - mass, rtol=1e-7, atol=1e-5)
    if angle < math.pi: assert torch.isneginf(vmf_cap_logpdf(-mean, mean, kappa, angle))

def test_haar():
    for k in (2, 3, 10):
        Q = haar_orthogonal(10_000, k, gen(k)); trace = Q.diagonal(dim1=1, dim2=2).sum(1)
        assert Q.dtype == D; assert_close(Q@Q.mT, torch.eye(k, dtype=D).expand(10_000, k, k))
        assert abs(trace.mean().item()) < .04 and abs(trace.var().item() - 1) < .06 and abs((Q.det() > 0).double().mean().item() - .5) < .02

# refusals
good = uniform_sphere(4, 3, gen(0))
@pytest.mark.parametrize("call,says", [
    (lambda: vmf(good, -1.), "kappa must be finite and >= 0, got -1"), (lambda: vmf(good, math.inf), "got inf"), (lambda: vmf(good, torch.tensor([1., math.nan, 1., 1.])), "got nan"),
    (lambda: vmf(good, torch.ones(3)), r"\(3,\) does not give one value to each of the rows \(4,\)"), (lambda: vmf(2*good, 1.), "row 0 has norm 2"),
    (lambda: vmf(torch.cat([good, good[:1]*1.01]), 1.), "row 4 has norm 1.01"), (lambda: vmf(good*math.nan, 1.), "norm nan"), (lambda: vmf(good[:,:1].sign(), 1.), ">= 2, got 1"),
    (lambda: vmf(good.int(), 1.), "float tensor"), (lambda: vmf(torch.tensor(1.), 1.), "float tensor"), (lambda: vmf(good, 1., draws=0), "draws must be >= 1, got 0"),
    (lambda: uniform_sphere(5, 1), "integer >= 2, got 1"), (lambda: uniform_sphere(5, 2.), "got 2.0"), (lambda: log_mgf(1., 0), ">= 1, got 0"), (lambda: log_mgf(-1., 3), "got -1"), (lambda: cosine_logpdf(torch.zeros(1), 1), "got 1"),
    (lambda: vmf_slice(good, 1., 4), "0..3, got 4"), (lambda: vmf_slice(good.expand(2, 4, 3), 1., 4), "0..3, got 4"), (lambda: uniform_slice(good, -1), "0..3, got -1"), (lambda: uniform_slice(good, 1.), "got 1.0"), (lambda: vmf_slice(good, 1., 1, concentration="eq6"), "'eq6'"),
    (lambda: vmf_slice(2*good, 1., 1), "anchor rows"), (lambda: vmf_slice(good, -1., 1), "got -1"), (lambda: vmf_slice(good, -1., 3), "got -1"), (lambda: vmf_cap(good, 1., 0.), "angle"), (lambda: vmf_cap(good, 1., 3.2), "got 3.2"), (lambda: cap_rule(3, -1.), "got -1"),
    (lambda: vmf_cap(good, -1., 1.), "got -1"), (lambda: vmf_cap_logpdf(good, good, -1., 1.), "got -1"), (lambda: cosine_rule(3, 1), "got 1"), (lambda: cosine_rule(0), "got 0"), (lambda: sphere_rule(10), "dimension 10"), (lambda: slice_rule(3, 4), "got 4"), (lambda: slice_rule(1, 1), "got 1"),
    (lambda: zonal(-1, torch.zeros(1), 3), "got -1"), (lambda: vmf_logpdf(good, good[:,:2], 1.), r"\(4, 3\) against \(4, 2\)"), (lambda: vmf_logpdf(2*good, good, 1.), "z rows"), (lambda: haar_orthogonal(2, 1), "got 1")])
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says): call()
def test_accepts_what_rounding_leaves():
    unit = torch.tensor([1., 0.], dtype=D)
    with pytest.raises(ValueError, match="row 0 has norm 1"): require_unit(unit*(1+1.1e-6))
    assert require_unit(unit*(1+.9e-6)) is not None
    assert require_unit(good.double()) is not None and require_unit(good*1.0002) is not None and require_kappa(0.).item() == 0
    assert cap_rule(3, math.pi)[1].sum().item() == pytest.approx(1) and sphere.require_dim(np.int64(3)) == 3 and sphere.require_fixed(np.int64(3), 3) == 3
def test_directions_are_drawn_where_asked():
    assert sphere._directions((2,), 3, None, device="meta").device.type == "meta"
def test_means_beside_either_pole_keep_every_digit():
    "The reflection uses the pole farther from the mean; the other one would cancel."
    mean = normalize(torch.tensor([[s, 1e-7, 2e-7] for s in (1., -1.)], dtype=D), dim=1)
    assert_close(sphere._to_mean(e1(3).expand(2, 3), mean), mean, rtol=1e-14, atol=0)
def test_slice_of_radius_zero_is_a_point():
    pole = e1(3)[None]
    for concentration in ("restricted", "constant"):
        assert vmf_slice_logpdf(pole, pole, 2., 1, concentration).item() == 0 and torch.equal(vmf_slice(pole, 2., 1, gen(0), 4, concentration), pole[:,None].expand(1, 4, 3))
def test_on_the_slice_means_to_eight_roundings():
    anchor = torch.tensor([[.25, (1-.25**2)**.5, 0.]], dtype=D); step = torch.tensor([[2.**-52, 0., 0.]], dtype=D)
    assert vmf_slice_logpdf(anchor + 8*step, anchor, 2., 1).isfinite() and vmf_slice_logpdf(anchor + 8.5*step, anchor, 2., 1) == -math.inf

# caps
@pytest.mark.parametrize("k,kappa", [(2, 1e12), (3, 1e8), (10, 1e12)])
def test_vmf_cap_where_the_mass_is_narrow(k, kappa):
    "Far below the first grid's step kappa times the squared angle is chi-squared."
    z = vmf_cap(e1(k), kappa, math.pi, gen(0), 20_000)
    assert stats.kstest(kappa*z[:,1:].square().sum(1).numpy(), stats.chi2(k-1).cdf).pvalue > 1e-3
def test_cap_mass_in_high_dimension():
    assert_close(sphere._log_cap_mass(1e4, 1000, math.pi), log_mgf(1e4, 1000).item(), rtol=1e-11, atol=0)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_angle_table_covers_the_cap(k):
    theta, cdf = sphere._angle_table(0., k, 1.)
    assert theta[0] == cdf[0] == 0 and theta[-1] == cdf[-1] == 1 and (theta.diff() > 0).all() and (cdf.diff() >= 0).all()
def test_vmf_cap_draws_follow_the_law_of_the_dimension():
    t = vmf_cap(e1(6)[None], 3., 1.2, gen(0), 8000)[0,:,0]
    assert ks(t, 6, 3., 1.2) > 1e-3
