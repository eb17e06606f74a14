"Every named loss against a loop over anchors written from its paper; stability, transforms, peers, bad input."
import math
import warnings
import pytest, torch
from hypothesis import given, settings, strategies as st
from scipy.optimize import brentq
from torch.testing import assert_close
from contrastive_nb import losses as L
from contrastive_nb.kernels import cosine, gaussian, laplacian

seeds = st.integers(0, 2**31-1)
def rows(seed, *shape, dtype=torch.float64): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
def views(seed, n, d=4, dtype=torch.float64): return (z := rows(seed, n, d, dtype=dtype)), z+.7*rows(seed+1, n, d, dtype=dtype)
def cos(x, y): return float(x@y)/math.sqrt(float(x@x)*float(y@y))
def anchors(z1, z2, way):
    "(anchor, its positive, its candidates), one by one."
    n = len(z1)
    for i in range(n): yield z1[i], z2[i], [z2[j] for j in range(n) if j != i] + ([z1[j] for j in range(n) if j != i] if way == "both" else [])
    if way == "one": return
    for i in range(n): yield z2[i], z1[i], [z1[j] for j in range(n) if j != i] + ([z2[j] for j in range(n) if j != i] if way == "both" else [])

# The loops. (x, p, C) -> loss of one anchor; exponentials and sums as printed in the papers.
def softmax_loss(T, sim=cos, a=1.): return lambda x,p,C: -math.log(math.exp(sim(x, p)/T)/(a*math.exp(sim(x, p)/T)+sum(math.exp(sim(x, c)/T) for c in C)))
def kernel_loss(k): return lambda x,p,C: -math.log(k(x, p)/(k(x, p)+sum(k(x, c) for c in C)))
def adnce_loss(T, mu, sigma):
    def f(x, p, C):
        w = [math.exp(-(cos(x, c)-mu)**2/(2*sigma**2)) for c in C]
        w = [v/(sum(w)/len(w)) for v in w]
        return -math.log(math.exp(cos(x, p)/T)/(math.exp(cos(x, p)/T)+sum(v*math.exp(cos(x, c)/T) for v,c in zip(w, C))))
    return f
def hard_loss(T, tau, beta):
    def f(x, p, C):
        k,pos = [math.exp(cos(x, c)/T) for c in C],math.exp(cos(x, p)/T)
        imp = [v**beta for v in k]
        total = sum(i*v for i,v in zip(imp, k))/(sum(imp)/len(imp))
        Ng = max((-tau*len(C)*pos+total)/(1-tau), len(C)*math.exp(-1/T))
        return -math.log(pos/(pos+Ng))
    return f
def kl_loss(T): return lambda x,p,C: -cos(x, p)/T+math.log(sum(math.exp(cos(x, c)/T) for c in C)/len(C))
def chi2_loss(T):
    def f(x, p, C): # the best value over all sizes of the support, each by its stationarity condition
        l = sorted((cos(x, c)/T for c in C), reverse=True)
        m,best = len(l),-math.inf
        for k in range(1, m+1):
            level = sum(l[:k])/k+2-2*m/k
            q = [1+(v-level)/2 for v in l[:k]]
            if min(q) < 0: break
            best = max(best, (sum(a*b for a,b in zip(q, l))-sum((a-1)**2 for a in q)-(m-k))/m)
        return -cos(x, p)/T+best
    return f
def cvar_loss(T, alpha):
    def f(x, p, C):
        l,left,total = sorted((cos(x, c)/T for c in C), reverse=True),alpha*len(C),0.
        for v in l: total += min(1, max(0, left))*v; left -= 1
        return -cos(x, p)/T+total/(alpha*len(C))
    return f
def dist(x, y): return math.sqrt(sum(float(a-b)**2 for a,b in zip(x, y)))

cases = { # name -> (call, loop, candidates)
    "info_nce": (lambda x,y,T,**k: L.info_nce(x, y, T, **k), lambda T: softmax_loss(T), "one"),
    "info_nce without positive": (lambda x,y,T,**k: L.info_nce(x, y, T, positive_in_denominator=False, **k), lambda T: softmax_loss(T, a=0.), "one"),
    "nt_xent": (L.nt_xent, lambda T: softmax_loss(T), "both"),
    "clip_loss": (L.clip_loss, lambda T: softmax_loss(T), "cross"),
    "decoupled": (L.decoupled_info_nce, lambda T: softmax_loss(T, a=0.), "both"),
    "gaussian": (L.kernel_info_nce, lambda T: kernel_loss(lambda x,y: math.exp(-dist(x, y)**2/(2*T))), "both"),
    "laplacian": (lambda x,y,T,**k: L.kernel_info_nce(x, y, T, laplacian, **k), lambda T: kernel_loss(lambda x,y: math.exp(-dist(x, y)/T)), "both"),
    "kernel sum": (lambda x,y,T,**k: L.kernel_info_nce(x, y, T, laplacian+gaussian.scaled(3), **k), lambda T: kernel_loss(lambda x,y: math.exp(-dist(x, y)/T)+math.exp(-dist(x, y)**2/(6*T))), "both"),
    "adnce": (lambda x,y,T,**k: L.adnce(x, y, T, .3, .4, **k), lambda T: adnce_loss(T, .3, .4), "both"),
    "debiased": (lambda x,y,T,**k: L.debiased_info_nce(x, y, T, .15, **k), lambda T: hard_loss(T, .15, 0.), "both"),
    "hard": (lambda x,y,T,**k: L.hard_negative_info_nce(x, y, T, .1, 1.5, **k), lambda T: hard_loss(T, .1, 1.5), "both"),
    "hard, tau_plus 0": (lambda x,y,T,**k: L.hard_negative_info_nce(x, y, T, 0., .5, **k), lambda T: hard_loss(T, 0., .5), "both"),
    "kl dro": (L.dro_info_nce, kl_loss, "both"),
    "chi2 dro": (L.chi2_dro, chi2_loss, "both"),
    "cvar dro": (lambda x,y,T,**k: L.cvar_dro(x, y, T, .25, **k), lambda T: cvar_loss(T, .25), "both"),
}
streamable = [c for c in cases if c not in ("laplacian", "kernel sum", "chi2 dro", "cvar dro")]

@pytest.mark.parametrize("name", cases)
@given(seed=seeds, n=st.integers(2, 7), T=st.floats(.1, 2))
@settings(max_examples=6, deadline=None)
def test_loop(name, seed, n, T):
    call,loop,way = cases[name]
    z1,z2 = views(seed, n)
    want = torch.tensor([loop(T)(*a) for a in anchors(z1, z2, way)], dtype=torch.float64)
    for form in ("matrix", "stream") if name in streamable else ("auto",):
        kw = dict(form=form) if name in streamable else {}
        assert_close(call(z1, z2, T, reduction="none", **kw), want, rtol=1e-8, atol=1e-8)
        assert_close(call(z1, z2, T, **kw), want.mean(), rtol=1e-8, atol=1e-8)
        assert_close(call(z1, z2, T, reduction="sum", **kw), want.sum(), rtol=1e-8, atol=1e-8)

@given(seed=seeds, T=st.floats(.1, 2), a=st.sampled_from([.25, 1., 3.]), rho=st.sampled_from([1., 4.]))
@settings(max_examples=10, deadline=None)
def test_coefficient_and_alignment_weight_loop(seed, T, a, rho):
    z1,z2 = views(seed, 5)
    want = []
    for x,p,C in anchors(z1, z2, "both"):
        pos = math.exp(cos(x, p)/T)
        want.append(-rho*math.log(pos)+math.log(a*pos+sum(math.exp(cos(x, c)/T) for c in C)))
    for form in ("matrix", "stream"): assert_close(L.contrast(z1, z2, T, a=a, alignment_weight=rho, form=form, reduction="none"), torch.tensor(want, dtype=torch.float64))

@given(seed=seeds, n=st.integers(1, 5), m=st.integers(1, 6), shared=st.booleans(), T=st.floats(.1, 2))
@settings(max_examples=15, deadline=None)
def test_explicit_negatives_loop(seed, n, m, shared, T):
    z1,z2 = views(seed, n)
    neg = rows(seed+2, m, 4) if shared else rows(seed+2, n, m, 4)
    want = torch.tensor([softmax_loss(T)(z1[i], z2[i], neg if shared else neg[i]) for i in range(n)], dtype=torch.float64)
    for form in ("matrix", "stream") if shared else ("auto",): assert_close(L.info_nce(z1, z2, T, neg, form=form, reduction="none"), want)
    if not shared: assert_close(L.support_corrected_info_nce(z1, z2, neg, T, reduction="none"), want)
    want = torch.tensor([adnce_loss(T, .3, .4)(z1[i], z2[i], neg if shared else neg[i]) for i in range(n)], dtype=torch.float64)
    assert_close(L.adnce(z1, z2, T, .3, .4, negatives=neg, reduction="none"), want)

@given(seed=seeds, T=st.floats(.1, 2), way=st.sampled_from(["one", "both", "cross"]))
@settings(max_examples=15, deadline=None)
def test_ids_loop(seed, T, way):
    n,ids = 6,torch.tensor([3, 0, 3, 1, 0, 3])
    z1,z2 = views(seed, n)
    want = []
    for view,(x,y) in enumerate(((z1, z2), (z2, z1)) if way != "one" else ((z1, z2),)):
        for i in range(n):
            other = [j for j in range(n) if ids[j] != ids[i]]
            C = [y[j] for j in other]+([x[j] for j in other] if way == "both" else [])
            want.append((softmax_loss(T)(x[i], y[i], C), adnce_loss(T, .3, .4)(x[i], y[i], C), hard_loss(T, .2, 1.)(x[i], y[i], C)))
    want = torch.tensor(want, dtype=torch.float64).T
    for form in ("matrix", "stream"):
        kw = dict(candidates=way, ids=ids, form=form, reduction="none")
        assert_close(L.contrast(z1, z2, T, **kw), want[0])
        assert_close(L.adnce(z1, z2, T, .3, .4, **kw), want[1])
        assert_close(L.hard_negative_info_nce(z1, z2, T, .2, 1., **kw), want[2])

@pytest.mark.parametrize("name", cases)
def test_gradients(name):
    call,_,way = cases[name]
    z1,z2 = (z.requires_grad_() for z in views(5, 5, 3))
    T = torch.tensor(.6, dtype=torch.float64, requires_grad=True)
    if name == "debiased" : call = lambda x,y,T,**k: L.debiased_info_nce(x, y, T, .03, **k)
    weighted = name in ("adnce", "hard", "hard, tau_plus 0") # detached weights: not the gradient of the value
    for form in ("matrix", "stream") if name in streamable else ("auto",):
        f = lambda x,y,T: call(x, y, T, reduction="none", **(dict(form=form) if form != "auto" else {}))
        if not weighted: assert torch.autograd.gradcheck(f, (z1, z2, T)) and torch.autograd.gradgradcheck(f, (z1, z2, T))
    if name in streamable:
        u = rows(9, 5 if way == "one" else 10)
        a,b = (torch.autograd.grad(call(z1, z2, T, reduction="none", form=form) @ u, (z1, z2, T)) for form in ("matrix", "stream"))
        for x,y in zip(a, b): assert_close(x, y, rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize("form", ["matrix", "stream"])
def test_constant_weights_change_nothing(form):
    "Also where a weight does not know which pairs are excluded."
    z1,z2 = (z.requires_grad_() for z in views(5, 5, 3))
    for weight in (torch.zeros_like, lambda l: torch.full_like(l, -3.)):
        a,b = (torch.autograd.grad(L.contrast(z1, z2, .5, log_weight=w, form=form), (z1, z2)) for w in (weight, None))
        for x,y in zip(a, b): assert_close(x, y)

def test_weights_are_constants():
    "The gradient of ADNCE is that of the sum with its weights frozen; the undetached gradient is another."
    z1,z2 = (z.requires_grad_() for z in views(5, 5, 3))
    z = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    s,eye = z@z.T,torch.eye(5, dtype=torch.bool).repeat(2, 2)
    def loss(freeze):
        w = torch.exp(-(s-.3)**2/(2*.4**2)).masked_fill(eye, 0.)
        w = w/w.sum(1, keepdim=True)*8
        if freeze: w = w.detach()
        pos = torch.cat([s.diagonal(5), s.diagonal(-5)])/.5
        return (torch.log(pos.exp()+(w*(s/.5).exp()).sum(1))-pos).mean()
    g = [torch.autograd.grad(loss(f), z1, retain_graph=True)[0] for f in (True, False)]
    for form in ("matrix", "stream"): assert_close(torch.autograd.grad(L.adnce(z1, z2, .5, .3, .4, form=form), z1)[0], g[0])
    assert (g[0]-g[1]).abs().max() > 1e-3

@given(n=st.integers(2, 90), T=st.floats(1e-3, 10), form=st.sampled_from(["matrix", "stream"]), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=30, deadline=None)
def test_known_values(n, T, form, dtype):
    frame,flat = torch.eye(n, dtype=dtype),torch.ones(n, 3, dtype=dtype)
    tol = dict(rtol=1e-9, atol=1e-9) if dtype == torch.float64 else dict(rtol=1e-5, atol=1e-5+2e-6/T)
    for f,C in ((L.info_nce, n-1), (L.clip_loss, n-1), (L.nt_xent, 2*n-2), (L.dro_info_nce, None)):
        assert_close(f(flat, 5*flat, T, form=form).item(), 0. if C is None else math.log(1+C), **tol)
        assert_close(f(frame, 3*frame, T, form=form).item(), -1/T if C is None else math.log1p(C*math.exp(-1/T)), **tol)

@pytest.mark.parametrize("name", cases)
@pytest.mark.parametrize("T", [1e-3, 3e-3, .01, .05])
def test_cold(name, T):
    "Finite and right at small temperatures in float32, near and far from collapse."
    call = cases[name][0]
    for noise in (1e-3, .7, 10.):
        z = rows(0, 80, 6)
        z1,z2 = z,z+noise*rows(1, 80, 6)
        got,want = [],[]
        for form in ("matrix", "stream") if name in streamable else ("auto",):
            for dtype,out in ((torch.float32, got), (torch.float64, want)):
                x = z1.to(dtype).requires_grad_()
                v = call(x, z2.to(dtype), T, **(dict(form=form) if form != "auto" else {}))
                out.append((v.detach(), torch.autograd.grad(v, x)[0]))
        for (v,g),(w,h) in zip(got, want):
            assert v.isfinite() and g.isfinite().all()
            assert abs(v-w) < 1e-5*max(1, abs(w))+1e-6/T
            if name not in ("debiased", "hard", "hard, tau_plus 0"): assert (g-h).norm() < 1e-2*h.norm()+1e-6/T # a clamp may switch by rounding

@pytest.mark.parametrize("name", cases)
def test_precision(name):
    call = cases[name][0]
    z1,z2 = views(0, 70, 8, torch.float32)
    assert call(z1.double(), z2.double(), .3).dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16):
        a,b = z1.to(dtype),z2.to(dtype)
        assert_close(call(a, b, .05), call(a.float(), b.float(), .05))
        with torch.autocast("cpu", dtype=dtype): assert_close(call(z1, z2, .05).double(), call(z1.double(), z2.double(), .05), rtol=1e-4, atol=1e-4)
    x = z1.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16): v = call(x, z2, .05)
    v.backward()
    y = z1.clone().requires_grad_()
    w = call(y, z2, .05); w.backward()
    assert torch.equal(v, w) and torch.equal(x.grad, y.grad)

@pytest.mark.parametrize("name", cases)
def test_functorch(name):
    call,z1,z2 = cases[name][0],*views(0, 6)
    x = z1.clone().requires_grad_()
    assert_close(torch.func.grad(lambda z: call(z, z2, .5))(z1), torch.autograd.grad(call(x, z2, .5), x)[0])
    got = torch.func.vmap(lambda a,b: call(a, b, .5))(torch.stack([z1, z2]), torch.stack([z2, 2*z1+z2]))
    assert_close(got, torch.stack([call(z1, z2, .5), call(z2, 2*z1+z2, .5)]))

def test_chi2_adversary_by_hand():
    "All mass on one candidate, on two, and a little everywhere: (3 x 100 - 4 - 1 - 1)/3, ..."
    l = torch.tensor([[100., -math.inf, 0., 0.], [0., 0., -100., -math.inf], [.2, -.2, 0., -math.inf]], dtype=torch.float64, requires_grad=True)
    worst = L.chi2_worst(l)
    assert_close(worst, torch.tensor([98., -.5, .08/3/4], dtype=torch.float64))
    g, = torch.autograd.grad(worst.sum(), l)
    assert_close(g, torch.tensor([[1., 0., 0., 0.], [.5, .5, 0., 0.], [1.1/3, .9/3, 1/3, 0.]], dtype=torch.float64))
    assert_close(L.chi2_worst(l[1:2, :3]), worst[1:2]) # what is excluded might as well not be there

def test_chi2_adversary_by_bisection():
    "The worst density is (1 + (l - level)/2)_+ with the level that gives it mean one."
    for row in 3*rows(0, 100, 12):
        mean = lambda level: (1 + (row - level)/2).relu().mean().item()
        q = (1 + (row - brentq(lambda level: mean(level) - 1, row.min().item() - 1, row.max().item() + 2, xtol=1e-13))/2).relu()
        assert_close(L.chi2_worst(row[None])[0], (q*row - (q - 1)**2).mean())

def test_debias_where_nothing_is_left():
    "The share of false negatives takes more than all there is: the floor, with a finite gradient."
    for excess in (0., .4, 3.):
        x = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (excess-math.log(.9), 0.)]
        out = L.debias(*x, torch.ones((), dtype=torch.float64), .5, .9)
        assert out.item() == -2. and all(g.item() == 0 for g in torch.autograd.grad(out, x))

def test_which_form():
    z,negatives = torch.ones(64, 3),torch.ones(64, 5, 3)
    assert L.SMALL == 64 and [L.pick_form("auto", cosine, z[:n], None, None) for n in (63, 64)] == ["matrix", "stream"]
    assert [L.pick_form("auto", k, z, m, pool) for k,m,pool in ((laplacian, None, None), (cosine, negatives, None), (cosine, None, L.chi2_worst), (cosine, negatives[0], None))] == ["matrix"]*3 + ["stream"]
    assert [L.pick_form(f, cosine, z[:n], None, None) for f in ("matrix", "stream") for n in (2, 64)] == ["matrix"]*2 + ["stream"]*2

def test_number_of_candidates():
    assert [L.n_candidates(5, c, None, None) for c in ("both", "cross", "one")] == [8, 4, 4] and L.n_candidates(5, "one", torch.ones(7, 3), None) == 7
    ids,others = torch.tensor([0, 1, 0, 2, 0]),[2, 4, 2, 4, 2]
    for c,want in (("one", others), ("cross", others*2), ("both", [2*k for k in others*2])):
        assert L.n_candidates(5, c, None, ids).tolist() == want
        assert torch.func.vmap(lambda i: L.n_candidates(5, c, None, i))(ids[None])[0].tolist() == want

@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "clip_loss", "adnce", "hard", "chi2 dro"])
def test_compiles(name):
    call,(z1,z2) = cases[name][0],views(0, 70)
    f = torch.compile(lambda x,y,T: call(x, y, T), fullgraph=True, backend="aot_eager")
    x,y = z1.clone().requires_grad_(),z1.clone().requires_grad_()
    T = torch.tensor(.4, dtype=torch.float64)
    a,b = f(x, z2, T),call(y, z2, T)
    assert_close(a, b)
    assert_close(torch.autograd.grad(a, x)[0], torch.autograd.grad(b, y)[0])

def test_retained_graph_and_frozen_inputs():
    z1,z2 = views(0, 70)
    x = z1.clone().requires_grad_()
    v = L.nt_xent(x, z2, .2)
    assert_close(*(torch.autograd.grad(v, x, retain_graph=True)[0] for _ in range(2)))
    assert not L.nt_xent(z1, z2, .2).requires_grad
    T = torch.tensor(.2, requires_grad=True)
    L.nt_xent(z1, z2, T).backward()
    h = 1e-4
    assert_close(T.grad.item(), ((L.nt_xent(z1, z2, .2+h)-L.nt_xent(z1, z2, .2-h))/(2*h)).item(), rtol=1e-4, atol=1e-6)

# ---- outside the family

@given(seed=seeds, n=st.integers(2, 6), lam=st.floats(.1, 5))
@settings(max_examples=10, deadline=None)
def test_moments_loop(seed, n, lam):
    z1,z2 = views(seed, n, 3)
    want = [sum(float(z1[i]@z2[j])**2 for j in range(n) if j != i)/(n-1)-2*float(z1[i]@z2[i]) for i in range(n)]
    assert_close(L.spectral_contrastive(z1, z2, reduction="none"), torch.tensor(want, dtype=torch.float64))
    z = torch.cat([z1, z2])
    assert_close(L.spectral_contrastive(z1, z2, unbiased=False).item(), sum(float(x@y)**2 for x in z for y in z)/(4*n*n)-2*sum(float(a@b) for a,b in zip(z1, z2))/n)
    M = sum(torch.outer(x, x) for x in z)/(2*n)
    want = sum(dist(a, b)**2 for a,b in zip(z1, z2))/n+lam*sum((float(M[i,j])-(i == j))**2 for i in range(3) for j in range(3))
    assert_close(L.generalized_spectral(z1, z2, lam).item(), want)
    assert_close(L.generalized_spectral(z1, z2, 1.), L.spectral_contrastive(z1, z2, unbiased=False)+3)

@given(seed=seeds, n=st.integers(2, 6), alpha=st.floats(.5, 3), t=st.floats(.1, 4))
@settings(max_examples=10, deadline=None)
def test_alignment_uniformity_loop(seed, n, alpha, t):
    z1,z2 = views(seed, n)
    u,v = ([x/math.sqrt(float(x@x)) for x in z] for z in (z1, z2))
    assert_close(L.alignment(z1, z2, alpha, "none"), torch.tensor([dist(a, b)**alpha for a,b in zip(u, v)], dtype=torch.float64))
    want = math.log(sum(math.exp(-t*dist(u[i], u[j])**2) for i in range(n) for j in range(n) if i != j)/(n*(n-1)))
    assert_close(L.uniformity(z1, t).item(), want)
    assert_close(torch.func.vmap(lambda z: L.uniformity(z, t))(z1[None])[0].item(), want)

def test_alignment_meets():
    x = rows(0, 4, 3).requires_grad_()
    for alpha in (.5, 1., 2., 3.):
        loss = L.alignment(x, x.detach(), alpha)
        assert loss.item() == 0 and torch.autograd.grad(loss, x)[0].abs().max() < 1e-12
    e = torch.eye(2, dtype=torch.float64)
    assert [L.alignment(e, -e, alpha).item() for alpha in (1., 2., 3.)] == [2., 4., 8.] and L.alignment(e, e.flip(0), 3.).item() == pytest.approx(2**1.5)

@given(seed=seeds, T=st.floats(.1, 2), p=st.sampled_from([.2, .5, .9]))
@settings(max_examples=15, deadline=None)
def test_several_positives_loop(seed, T, p):
    n,m = 5,6
    g = torch.Generator().manual_seed(seed)
    z1,z2 = rows(seed, n, 4),rows(seed+1, m, 4)
    pos,out = torch.rand(n, m, generator=g) < p,torch.rand(n, m, generator=g) < .2
    for mean in ("outside", "inside"):
        for against in ("all", "negatives"):
            want = []
            for i in range(n):
                P = [j for j in range(m) if pos[i,j] and not out[i,j]]
                k = {j: math.exp(cos(z1[i], z2[j])/T) for j in range(m) if not out[i,j]}
                pi = [k[j]/(sum(k.values()) if against == "all" else k[j]+sum(v for q,v in k.items() if q not in P)) for j in P]
                want.append(None if not P else -sum(map(math.log, pi))/len(P) if mean == "outside" else -math.log(sum(pi)/len(P)))
            x = z1.clone().requires_grad_()
            got = L.multi_positive_info_nce(x, z2, pos, T, mean, against, out, reduction="none")
            assert_close(got.detach(), torch.tensor([w or 0. for w in want], dtype=torch.float64))
            have = [w for w in want if w is not None]
            v = L.multi_positive_info_nce(x, z2, pos, T, mean, against, out)
            assert_close(v.item(), sum(have)/max(1, len(have)))
            assert torch.autograd.grad(v, x)[0].isfinite().all()

def test_several_positives_mean_counts_only_anchors_that_have_one():
    z1,z2 = rows(0, 3, 4),rows(1, 5, 4)
    one = torch.zeros(3, 5, dtype=torch.bool).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(True))
    alone = L.multi_positive_info_nce(z1[1:2], z2, one[1:2], .3, reduction="sum")
    assert_close(L.multi_positive_info_nce(z1, z2, one, .3), alone)
    assert alone > 1
    assert L.multi_positive_info_nce(z1, z2, one & False, .3) == 0

# ---- peers

def test_lightly_agrees():
    lightly = pytest.importorskip("lightly.loss")
    z1,z2 = views(0, 70, 8, torch.float32)
    assert_close(lightly.NTXentLoss(temperature=.2)(z1, z2), L.nt_xent(z1, z2, .2))
    assert_close(lightly.DCLLoss(temperature=.2)(z1, z2), L.decoupled_info_nce(z1, z2, .2))

def test_pytorch_metric_learning_agrees():
    pml = pytest.importorskip("pytorch_metric_learning.losses")
    z1,z2 = views(0, 20, 8, torch.float32)
    label = torch.arange(20).repeat(2)
    assert_close(pml.NTXentLoss(temperature=.2)(torch.cat([z1, z2]), label), L.nt_xent(z1, z2, .2))
    label = torch.arange(10).repeat(4)
    mate = (label[:,None] == label) & ~torch.eye(40, dtype=torch.bool)
    z = torch.cat([z1, z2])
    assert_close(pml.SupConLoss(temperature=.2)(z, label), L.multi_positive_info_nce(z, z, mate, .2, excluded=torch.eye(40, dtype=torch.bool)))

# ---- bad input

outside = {"spectral": L.spectral_contrastive, "spectral, all rows": lambda *z: L.spectral_contrastive(*z, unbiased=False), "generalized spectral": L.generalized_spectral, "alignment": L.alignment}

@pytest.mark.parametrize("f", outside.values(), ids=outside)
def test_views_outside_the_family(f):
    "Both views are checked, lifted to the wider dtype, and named in a message."
    z1,z2 = views(0, 5)
    for a,b in ((z1.float(), z2), (z1, z2.float())):
        assert f(a, b).dtype == torch.float64
        assert_close(f(a, b), f(a.double(), b.double()), rtol=1e-12, atol=0)
    for n,m in ((4, 5), (5, 4)):
        with pytest.raises(ValueError, match=rf"views must pair up: \({n}, 4\) against \({m}, 4\)"): f(z1[:n], z2[:m])
    for k,name in enumerate(("z1", "z2")):
        bad = [z1.clone(), z2.clone()]
        bad[k][3,1] = math.nan
        with pytest.raises(ValueError, match=rf"{name} of shape \(5, 4\): row \[3\] is nan \(1 such"): f(*bad)

@pytest.mark.parametrize("k,name", [(0, "z1"), (1, "z2")])
def test_rows_with_several_positives(k, name):
    z,pos = [rows(0, 3, 4), rows(1, 5, 4)],torch.ones(3, 5, dtype=torch.bool)
    def call(x): return L.multi_positive_info_nce(*(x if i == k else y for i,y in enumerate(z)), pos)
    assert_close(call(z[k].float()), call(z[k].float().double()), rtol=1e-12, atol=0)
    with pytest.raises(TypeError, match=f"{name} must be floating point"): call(z[k].long())
    with pytest.raises(ValueError, match="rows must have one width"): call(z[k][:, :2])
    bad = z[k].clone(); bad[1,2] = math.nan
    with pytest.raises(ValueError, match=rf"{name} of shape .*: row \[1\] is nan"): call(bad)

named = [c[0] for c in cases.values()]
ok = torch.ones(3, 2)+torch.eye(3, 2)
@given(call=st.sampled_from(named), n=st.integers(1, 5), m=st.integers(1, 5), d=st.integers(1, 4), e=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_views_that_do_not_pair(call, n, m, d, e):
    if (n, d) == (m, e): n = m+1
    with pytest.raises(ValueError, match=r"views must pair up|rows must have one width"): call(torch.ones(n, d), torch.ones(m, e), .1)

@given(call=st.sampled_from(named), where=st.sampled_from([0, 1]), row=st.integers(0, 69), value=st.sampled_from([math.nan, math.inf, -math.inf]), big=st.booleans())
@settings(max_examples=40, deadline=None)
def test_values(call, where, row, value, big):
    z = [*views(0, 70 if big else 5, 3, torch.float32)]
    row %= len(z[0])
    z[where][row,1] = value
    with pytest.raises(ValueError, match=rf"z{where+1} of shape \({len(z[0])}, 3\): row \[{row}\] is {'nan' if math.isnan(value) else 'infinite'}"): call(*z, .1)

@given(name=st.sampled_from(["info_nce", "adnce", "hard", "kl dro", "chi2 dro", "cvar dro"]), value=st.sampled_from([math.nan, math.inf]), each=st.booleans())
@settings(max_examples=20, deadline=None)
def test_values_of_negatives(name, value, each):
    (x,y),neg = views(0, 5, 3),rows(1, 5, 4, 3) if each else rows(1, 4, 3)
    neg[...,2,1] = value
    with pytest.raises(ValueError, match=r"negatives of shape .*: row \[(0, )?2\] is (nan|infinite)"): cases[name][0](x, y, .1, negatives=neg)

@given(call=st.sampled_from([c for n,c in cases.items() for c in c[:1] if n not in ("gaussian", "laplacian", "kernel sum")]), where=st.sampled_from([0, 1]), row=st.integers(0, 69))
@settings(max_examples=20, deadline=None)
def test_zero_rows(call, where, row):
    z = [*views(0, 70, 3, torch.float32)]
    z[where][row] = 0
    with pytest.raises(ValueError, match=rf"z{where+1} .*row \[{row}\] is zero"): call(*z, .1)

@given(call=st.sampled_from(named), T=st.one_of(st.floats(max_value=0.), st.sampled_from([math.nan, math.inf])), tensor=st.booleans())
@settings(max_examples=40, deadline=None)
def test_temperatures(call, T, tensor):
    with pytest.raises(ValueError, match="temperature must be a positive finite number, got"): call(ok, ok, torch.tensor(T) if tensor else T)

refusals = {
    "integers": (TypeError, "z1 must be floating point, got torch.int64", lambda f: f(ok.long(), ok, .1)),
    "lists": (TypeError, "z2 must be a tensor, got list", lambda f: f(ok, ok.tolist(), .1)),
    "nothing": (ValueError, r"got shape \(0, 2\)", lambda f: f(ok[:0], ok[:0], .1)),
    "one pair": (ValueError, "no candidates: one pair", lambda f: f(ok[:1], ok[:1], .1)),
    "vectors": (ValueError, r"got shape \(2,\)", lambda f: f(ok[0], ok[0], .1)),
    "batches": (ValueError, "views must pair up", lambda f: f(ok[None], ok[None], .1)),
    "devices": (ValueError, "z1 on cpu, z2 on meta", lambda f: f(ok, ok.to("meta"), .1)),
    "temperatures": (ValueError, r"temperature must be one number, got shape \(3,\)", lambda f: f(ok, ok, torch.ones(3))),
    "reduction": (ValueError, "got 'avg'", lambda f: f(ok, ok, .1, reduction="avg")),
    "ids": (ValueError, r"ids must be \(3,\).*got \(2,\)", lambda f: f(ok, ok, .1, ids=torch.arange(2))),
    "one id": (ValueError, "all 3 pairs share the id 4", lambda f: f(ok, ok, .1, ids=torch.full((3,), 4))),
}
@pytest.mark.parametrize("what", refusals)
@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "clip_loss", "laplacian", "adnce", "hard", "chi2 dro"])
def test_refusals(what, name):
    error,message,call = refusals[what]
    with pytest.raises(error, match=message): call(cases[name][0])

def test_more_refusals():
    mask,neg = torch.eye(3, dtype=torch.bool),torch.ones(4, 2)
    for error,message,f in [
        (ValueError, r"negatives must be \(m, 2\) or \(3, m, 2\), got \(4, 2, 2\)", lambda: L.info_nce(ok, ok, .1, torch.ones(4, 2, 2))),
        (ValueError, "one width", lambda: L.info_nce(ok, ok, .1, torch.ones(4, 3))),
        (ValueError, r"got shape \(0, 2\)", lambda: L.info_nce(ok, ok, .1, neg[:0])),
        (ValueError, r"got shape \(3, 0, 2\)", lambda: L.support_corrected_info_nce(ok, ok, torch.ones(3, 0, 2))),
        (TypeError, "negatives must be floating", lambda: L.info_nce(ok, ok, .1, neg.long())),
        (ValueError, r"negatives of shape \(4, 2\): row \[1\] is nan", lambda: L.info_nce(ok, ok, .1, torch.where(torch.arange(4)[:,None] == 1, math.nan, neg))),
        (ValueError, "explicit negatives have none", lambda: L.info_nce(ok, ok, .1, neg, ids=torch.arange(3))),
        (ValueError, r"must be \(n, m, d\)", lambda: L.support_corrected_info_nce(ok, ok, neg)),
        (ValueError, "form must be", lambda: L.nt_xent(ok, ok, form="fast")),
        (ValueError, "form='stream' needs", lambda: L.kernel_info_nce(ok, ok, .1, laplacian, form="stream")),
        (ValueError, "form='stream' needs", lambda: L.info_nce(ok, ok, .1, torch.ones(3, 4, 2), form="stream")),
        (ValueError, "sigma must be positive, got 0", lambda: L.adnce(ok, ok, sigma=0.)),
        (ValueError, r"tau_plus must be in \[0, 1\), got 1", lambda: L.debiased_info_nce(ok, ok, tau_plus=1.)),
        (ValueError, "beta must be finite and >= 0, got -1", lambda: L.hard_negative_info_nce(ok, ok, beta=-1.)),
        (ValueError, r"alpha must be in \(0, 1\], got 2", lambda: L.cvar_dro(ok, ok, alpha=2.)),
        (ValueError, "lam must be positive", lambda: L.generalized_spectral(ok, ok, 0.)),
        (ValueError, "no candidates", lambda: L.spectral_contrastive(ok[:1], ok[:1])),
        (ValueError, "two rows or more", lambda: L.uniformity(ok[:1])),
        (TypeError, "positives must be a boolean tensor, got torch.float32", lambda: L.multi_positive_info_nce(ok, ok, mask.float())),
        (ValueError, r"anchors by candidates, \(3, 3\), got \(2, 3\)", lambda: L.multi_positive_info_nce(ok, ok, mask[:2])),
        (ValueError, "mean must be", lambda: L.multi_positive_info_nce(ok, ok, mask, mean="in")),
        (ValueError, "init must be at least", lambda: L.LearnedTemperature(init=.001)),
        (TypeError, "unexpected keyword", lambda: L.nt_xent(ok, ok, temprature=.1)),
    ]:
        with pytest.raises(error, match=message): f()

# ---- the learned temperature

def test_learned_temperature():
    m = L.LearnedTemperature()
    assert_close(m().item(), .07)
    assert_close(L.LearnedTemperature(.05, 20.)().item(), .05) # at its bound
    with torch.no_grad(): m.log_scale.fill_(50.)
    T = m()
    assert_close(T.item(), .01)
    T.backward()
    assert m.log_scale.grad.item() < 0 # alive at the bound
    assert [k for k in m.state_dict()] == ["log_scale"]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), m)
    a,b = L.decay_groups(model, .3)
    assert len(a["params"]) == 2 and a["weight_decay"] == .3 and b["params"][0] is m.log_scale and b["weight_decay"] == 0
    x,y = views(0, 70, dtype=torch.float32)
    L.nt_xent(x, y, m()).backward()

def test_quiet():
    "No warnings on the common path, and no change of the caller's tensors or of the global random state."
    z1,z2 = views(0, 70, dtype=torch.float32)
    copy,state = (z1.clone(), z2.clone()),torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x,T = z1.clone().requires_grad_(),torch.tensor(.1, requires_grad=True)
        for call in named: call(x, z2, T).backward()
    assert torch.equal(z2, copy[1]) and torch.equal(state, torch.get_rng_state())

# ---- the sigmoid loss, products, and what is looked at
def sigmoid_loop(z1, z2, T, b): return [sum(math.log1p(math.exp(-(1 if i == j else -1)*(cos(x, y)/T+b))) for j,y in enumerate(z2)) for i,x in enumerate(z1)]

@given(seed=seeds, n=st.integers(1, 6), T=st.floats(.1, 3.), b=st.floats(-10., 3.), form=st.sampled_from(["matrix", "stream"]))
@settings(max_examples=40, deadline=None)
def test_sigmoid_loop(seed, n, T, b, form):
    z1,z2 = views(seed, n)
    want = torch.tensor(sigmoid_loop(z1, z2, T, b), dtype=torch.double)
    assert_close(L.sigmoid_loss(z1, z2, T, b, form=form, reduction="none"), want)
    assert_close(L.sigmoid_loss(z1, z2, torch.tensor(T), torch.tensor(b), form=form), want.mean(), rtol=1e-5, atol=1e-6)
    assert_close(L.sigmoid_loss(z1, z2, T, b, form=form, reduction="sum"), want.sum())

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sigmoid_lifts_half_precision(dtype):
    z = [x.to(dtype).requires_grad_() for x in views(0, 70)]
    v = L.sigmoid_loss(*z, .2, -3.)
    v.backward()
    assert v.dtype == torch.float32 and z[0].grad.dtype == dtype
    assert_close(v, L.sigmoid_loss(*(x.float() for x in z), .2, -3., form="matrix"))

@pytest.mark.parametrize("call", [L.info_nce, L.nt_xent, L.clip_loss, L.decoupled_info_nce, L.dro_info_nce, L.sigmoid_loss])
def test_products_in_half_precision(call):
    "Rounding moves value and gradient by less than two parts in a hundred, and the default does not round."
    def parts(**kw):
        z = [x.requires_grad_() for x in views(0, 70, 16)]
        T = torch.tensor(.2, dtype=torch.double, requires_grad=True)
        v = call(*z, T, **kw)
        return v.detach(),*torch.autograd.grad(v, (*z, T))
    for x,y,exact in zip(parts(products="bf16"), parts(), parts(form="matrix")):
        assert 0 < (x-exact).norm() < .02*exact.norm() and (y-exact).norm() < 1e-6*exact.norm()

@pytest.mark.parametrize("message, f", [
    ("products must be 'fp32' or 'bf16', got 'half'", lambda: L.nt_xent(ok, ok, products="half")),
    ("products='bf16' needs the cosine kernel", lambda: L.contrast(ok, ok, kernel=gaussian, products="bf16")),
    ("no ids, weights or explicit negatives", lambda: L.nt_xent(ok, ok, ids=torch.arange(3), products="bf16")),
    ("no ids, weights or explicit negatives", lambda: L.info_nce(ok, ok, .1, torch.ones(4, 2), products="bf16")),
    ("the matrix was asked for", lambda: L.clip_loss(ok, ok, form="matrix", products="bf16")),
    ("bias must be finite, got nan", lambda: L.sigmoid_loss(ok, ok, .1, math.nan)),
    (r"bias must be one number, got shape \(2,\)", lambda: L.sigmoid_loss(ok, ok, .1, torch.ones(2))),
    ("views must pair up", lambda: L.sigmoid_loss(ok, ok[:2])),
    ("form must be", lambda: L.sigmoid_loss(ok, ok, form="fast")),
    ("got 'avg'", lambda: L.sigmoid_loss(ok, ok, reduction="avg", form="stream")),
    (r"row \[1\] is nan", lambda: L.sigmoid_loss(torch.where(torch.arange(3)[:,None] == 1, math.nan, ok), ok, form="stream")),
])
def test_refusals_of_products_and_bias(message, f):
    with pytest.raises(ValueError, match=message): f()

def test_a_bias_is_a_number():
    with pytest.raises(TypeError, match="bias must be a float or a tensor, got bool"): L.sigmoid_loss(ok, ok, .1, True)

@pytest.mark.parametrize("call", [L.nt_xent, L.clip_loss, L.sigmoid_loss])
@pytest.mark.parametrize("form", ["matrix", "stream"])
def test_unchecked_input_gives_nan(call, form):
    "What an accelerator does by default."
    bad = torch.where(torch.arange(3)[:,None] == 1, math.nan, ok)
    assert call(bad, ok, form=form, check=False).isnan()
    with pytest.raises(ValueError, match=r"z1 .*row \[1\] is nan"): call(bad, ok, form=form, check=True)

@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("products", ["fp32", "bf16"])
@pytest.mark.parametrize("call", [L.nt_xent, L.clip_loss, L.sigmoid_loss])
def test_a_step_is_captured(call, products):
    "No step waits for the device: the same losses and gradients come from a replayed graph."
    z = [x.cuda().requires_grad_() for x in views(0, 512, 64, torch.float32)]
    T = torch.tensor(.1, device="cuda", requires_grad=True)
    def step():
        v = call(*z, T, products=products)
        return v.detach(),*torch.autograd.grad(v, (*z, T))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3): want = step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): found = step()
    graph.replay()
    torch.cuda.synchronize()
    for x,y in zip(found, want): assert_close(x, y)
