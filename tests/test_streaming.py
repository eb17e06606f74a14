"The tiles cover each pair once; the walks agree with the matrix; nothing as large as the matrix is allocated."
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.nn.functional import logsigmoid
from contrastive_nb.kernels import cosine, unit
from contrastive_nb.streaming import LogSum, Plan, SigmoidSum, dense, fast_walk, half_statistics, safe_walk, stream, tiles

def rows(seed, *shape, dtype=torch.float64): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

@given(n=st.integers(1, 12), size=st.integers(1, 13), candidates=st.sampled_from(["both", "cross", "one"]))
@settings(max_examples=60, deadline=None)
def test_tiles_cover_each_pair_once(n, size, candidates):
    N,M = (n, n) if candidates == "one" else (2*n, 2*n)
    seen = torch.zeros(N, M, dtype=torch.int64)
    for t in tiles(candidates, n, size):
        block = torch.ones(t.rows.stop-t.rows.start, t.cols.stop-t.cols.start, dtype=torch.int64)
        if t.same: block.fill_diagonal_(0)
        seen[t.rows,t.cols] += block
        if candidates != "one" and t.rows != t.cols: seen[t.cols,t.rows] += block.T
    i,j = torch.arange(N)[:,None],torch.arange(M)
    want = (i % n) != (j % n)
    if candidates == "cross": want &= (i < n) != (j < n)
    assert torch.equal(seen, want.long())

@given(seed=st.integers(0, 10**6), n=st.integers(2, 11), size=st.integers(1, 12), candidates=st.sampled_from(["both", "cross", "one"]), weighted=st.booleans(),
       dup=st.booleans(), scale=st.sampled_from([.1, 1., 30.]), keep=st.sampled_from([0, 300, 1<<20]))
@settings(max_examples=60, deadline=None)
def test_walks_agree_with_the_matrix(seed, n, size, candidates, weighted, dup, scale, keep):
    a = (scale*rows(seed, n if candidates == "one" else 2*n, 3)).requires_grad_()
    c = rows(seed+1, n, 3).requires_grad_() if candidates == "one" else a
    ids = torch.randint(0, n, (n,), generator=torch.Generator().manual_seed(seed)) if dup else None
    if dup and len(ids.unique()) == 1: ids[0] += 1
    w = (lambda l: -.1*(l-.5).square()) if weighted else None
    out = stream(a, c, candidates, ids=ids, log_weight=w, size=size, keep=keep)
    plan = Plan(tiles(candidates, n, n), candidates != "one", ids if ids is None or candidates == "one" else ids.repeat(2), w)
    ref,g = dense(a, c, plan),rows(seed+2, len(a))
    assert_close(out, ref, rtol=1e-11, atol=1e-11)
    for x,y in zip(torch.autograd.grad(out, (a, c), g, retain_graph=True), torch.autograd.grad(ref, (a, c), g)): assert_close(x, y, rtol=1e-9, atol=1e-9*scale)
    for x,y in zip(torch.autograd.grad(out, (a, c), g), torch.autograd.grad(dense(a, c, plan), (a, c), g)): assert_close(x, y, rtol=1e-9, atol=1e-9*scale)

@pytest.mark.parametrize("candidates", ["both", "cross", "one"])
@pytest.mark.parametrize("upper", [0., 1e6]) # the fast walk and the safe one
def test_gradient_of_either_walk(candidates, upper):
    a = rows(0, 7 if candidates == "one" else 14, 3).requires_grad_()
    c = rows(1, 7, 3).requires_grad_() if candidates == "one" else a
    plan, g = Plan(tiles(candidates, 7, 7), candidates != "one", None, None), rows(2, len(a))
    got, want = (torch.autograd.grad(out, (a, c), g) for out in (stream(a, c, candidates, size=3, upper=upper), dense(a, c, plan)))
    for x,y in zip(got, want): assert_close(x, y, rtol=1e-11, atol=1e-11)

@pytest.mark.parametrize("log_weight", [lambda l: torch.full_like(l, -2.), torch.zeros_like, lambda l: l, lambda l: l.nan_to_num(neginf=0.)])
@pytest.mark.parametrize("upper", [0., 1e6]) # the fast walk and the safe one
def test_excluded_pairs_never_carry_weight(log_weight, upper):
    a = rows(0, 8, 3)
    out = stream(a, a, log_weight=log_weight, size=3, upper=upper)
    l = (a @ a.T)[~torch.eye(4, dtype=torch.bool).repeat(2, 2)].view(8, 6)
    w = log_weight(l.clone()).log_softmax(1)
    assert_close(out, (l + w).logsumexp(1))
    assert_close(dense(a, a, Plan(tiles("both", 4, 4), True, log_weight=log_weight)), out)

def test_fast_and_safe_agree():
    a = rows(0, 20, 4)
    plan = Plan(tiles("both", 10, 3), True, log_weight=lambda l: -l.square()/9)
    (v,u),(log_v,log_u) = fast_walk(a, a, plan, 1.5, {}),safe_walk(a, a, plan)
    assert_close(v.log()+1.5, log_v)
    assert_close(u.log(), log_u)

def test_fast_is_used_where_it_can():
    a = rows(0, 20, 4).requires_grad_()
    low,high = stream(a, a, size=3),stream(a, a, size=3, upper=100.)
    assert low.grad_fn.shift == 0. and high.grad_fn.shift == 30.
    assert_close(low, dense(a, a, Plan(tiles("both", 10, 10), True)))
    assert_close(high, low)

def test_underflow_and_overflow_fall_back():
    for scale in (30., 1e-3):
        a = (scale*torch.nn.functional.normalize(rows(0, 20, 4, dtype=torch.float32), dim=1)).requires_grad_()
        out = stream(a, a, size=3, upper=0. if scale > 1 else 1e3)
        assert out.grad_fn.shift is None
        assert_close(out.double(), dense(a.detach().double(), a.detach().double(), Plan(tiles("both", 10, 10), True)), rtol=1e-5, atol=1e-5)
        assert torch.autograd.grad(out.sum(), a)[0].isfinite().all()

class Largest(TorchDispatchMode):
    "Records the largest tensor that any operation returns."
    numel = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for o in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(o, torch.Tensor): self.numel = max(self.numel, o.numel())
        return out

@pytest.mark.parametrize("candidates", ["both", "cross", "one"])
@pytest.mark.parametrize("scale", [1., 40.])
def test_no_matrix(candidates, scale):
    n,d,size = 600,4,64
    a = (scale*rows(0, n if candidates == "one" else 2*n, d, dtype=torch.float32)).requires_grad_()
    with Largest() as seen: stream(a, a, candidates, size=size, keep=0).sum().backward()
    assert size*size <= seen.numel <= max(size*size, a.numel()) < n*n/8

def test_gradcheck_twice():
    a = rows(2, 6, 3).requires_grad_()
    for c in ("both", "cross", "one"):
        assert torch.autograd.gradcheck(lambda a: stream(a, a, c, size=2), a) and torch.autograd.gradgradcheck(lambda a: stream(a, a, c, size=2), a)
    b = rows(3, 4, 3).requires_grad_()
    f = lambda a,b: stream(a, b, "one", explicit=True, size=3)
    assert torch.autograd.gradcheck(f, (a, b)) and torch.autograd.gradgradcheck(f, (a, b))

@pytest.mark.parametrize("frozen", [0, 1])
def test_one_side_frozen(frozen):
    "Negatives from a queue have no gradient, first or second."
    x = [rows(2, 6, 3).requires_grad_(),rows(3, 4, 3).requires_grad_()]
    want = torch.autograd.grad(stream(*x, "one", explicit=True, size=3).sum(), x[1-frozen])[0]
    x[frozen].requires_grad_(False)
    f = (lambda y: stream(y, x[1], "one", explicit=True, size=3)) if frozen == 1 else lambda y: stream(x[0], y, "one", explicit=True, size=3)
    assert_close(torch.autograd.grad(f(x[1-frozen]).sum(), x[1-frozen])[0], want)
    assert torch.autograd.gradcheck(f, x[1-frozen]) and torch.autograd.gradgradcheck(f, x[1-frozen])

def test_a_second_derivative_keeps_its_precision_under_autocast():
    def second(a):
        with torch.autocast("cpu", torch.bfloat16): g, = torch.autograd.grad(stream(a, a, size=3).sum(), a, create_graph=True)
        return torch.autograd.grad(g.square().sum(), a)[0]
    a = rows(0, 20, 4)
    assert_close(second(a.float().requires_grad_()).double(), second(a.requires_grad_()), rtol=1e-4, atol=1e-4)

def test_no_tiles_wait_without_a_gradient(monkeypatch):
    a = rows(0, 8, 3)
    plan = Plan(tiles("both", 4, 2), True, keep=0)
    kept = {}
    fast_walk(a, a, plan, 0., kept)
    assert not kept
    out = stream(a.requires_grad_(), a)
    assert out.grad_fn.kept and out.grad_fn.plan.keep == 48<<20
    keeps = []
    monkeypatch.setattr(LogSum, "apply", staticmethod(lambda a,c,plan: keeps.append(plan.keep)))
    stream(a, a)
    with torch.no_grad(): stream(a, a)
    stream(a.detach(), a.detach())
    stream(a.detach(), a, "one", explicit=True)
    stream(a, a.detach(), "one", explicit=True)
    assert keeps == [48<<20, 0, 0, 48<<20, 48<<20]

# ---- sums that are not looked at, half precision, the sigmoid loss
@pytest.mark.parametrize("candidates", ["both", "cross", "one"])
@pytest.mark.parametrize("upper", [torch.tensor(10.), torch.tensor(100.), 100.])
def test_unasked_and_asked_agree(candidates, upper):
    "A bound as a tensor and a shift that is not zero give the value and gradient of the walk that looks."
    def parts(check, upper):
        a = rows(0, 12, 4).mul_(3.).requires_grad_()
        c = rows(1, 12, 4).requires_grad_() if candidates == "one" else a
        out = stream(a, c, candidates, upper=upper, size=3, check=check)
        return out.detach(), torch.autograd.grad(out.sum(), a)[0]
    for x,y in zip(parts(False, upper), parts(True, float(upper))): assert_close(x, y)

def test_a_sum_out_of_range_shows_unless_asked():
    a = torch.full((6, 4), 3.)
    assert stream(a, -a, "one", upper=139., check=False).isnan().all() and stream(a, -a, "one", upper=torch.tensor(139.), check=False).isnan().all()
    for kw in (dict(check=True), dict(), dict(upper=140., check=False)): # asked, by default on a CPU, and too wide to try
        assert_close(stream(a, -a, "one", **(dict(upper=139.) | kw)), torch.full((6,), -36+torch.tensor(5.).log().item()))

@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), size=st.integers(1, 10), T=st.floats(.05, 2.), bias=st.floats(-12., 3.), total=st.booleans())
@settings(max_examples=40, deadline=None)
def test_sigmoid_sum_at_any_tile_size(seed, n, size, T, bias, total):
    z1,z2,T,b = rows(seed, n, 3).requires_grad_(),rows(seed+1, n, 3).requires_grad_(),*(torch.tensor(x, dtype=torch.double, requires_grad=True) for x in (T, bias))
    u = torch.ones(n).double() if total else rows(seed+2, n)
    l = unit(z1) @ unit(z2).T/T + b
    loss = -logsigmoid(l*(2*torch.eye(n)-1)).sum(1) @ u
    s = SigmoidSum.apply(z1, z2, T, b, torch.double, size, total)
    assert_close(s if total else s @ u, loss)
    found = torch.autograd.grad(s if total else s @ u, (z1, z2, T, b))
    for x,y in zip(found, torch.autograd.grad(loss, (z1, z2, T, b))): assert_close(x, y, rtol=1e-6, atol=1e-9)

def test_sigmoid_sum_gradcheck():
    z = [rows(s, 5, 3).requires_grad_() for s in (0, 1)]
    T,b = (torch.tensor(x, dtype=torch.double, requires_grad=True) for x in (.4, -1.))
    for total in (True, False): assert torch.autograd.gradcheck(lambda *x: SigmoidSum.apply(*x, torch.double, 2, total), (*z, T, b))

@pytest.mark.parametrize("candidates", ["both", "cross", "one"])
@pytest.mark.parametrize("scale", [1e-30, 1., 1e30])
def test_half_statistics_in_full_precision(candidates, scale):
    "With float64 features they are the cosine's two statistics, at any scale of the rows and any size of a tile."
    z = [rows(s, 9, 4).mul_(scale).requires_grad_() for s in (0, 1)]
    T = torch.tensor(.3, dtype=torch.double, requires_grad=True)
    x = z[0] if candidates == "one" else torch.cat(z)
    a,c = cosine.features(x, z[1] if candidates == "one" else x, T)
    want = (cosine.features(*z, T)[0]*cosine.features(*z, T)[1]).sum(1),dense(a, c, Plan(tiles(candidates, 9, 9), candidates != "one"))
    u = [rows(5, 9), rows(6, len(want[1]))]
    for size in (2, 5, 20):
        found = half_statistics(*z, T, candidates, torch.double, size)
        for p,q in zip(found, want): assert_close(p, q)
        grads = [torch.autograd.grad(sum(v @ w for v,w in zip(s, u)), (*z, T), retain_graph=True) for s in (found, want)]
        for p,q in zip(*grads): assert ((p-q).norm() <= 1e-6*q.norm())

def test_half_precision_is_differentiable_once_and_not_for_the_coldest():
    z = [rows(s, 4, 3).requires_grad_() for s in (0, 1)]
    for f in (lambda: half_statistics(*z, .5)[1].sum(), lambda: SigmoidSum.apply(*z, .5, torch.zeros(()).double(), torch.double, 2, True)):
        with pytest.raises(RuntimeError, match="differentiable once: for a second derivative take form='matrix'"): torch.autograd.grad(f(), z, create_graph=True)
    with pytest.raises(ValueError, match="a temperature of 1/139 or more, got 0.001"): half_statistics(*z, .001)
