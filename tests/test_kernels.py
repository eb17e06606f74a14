"Kernels against loops, at the awkward points (d = 0, huge and tiny rows, half precision), and on bad input."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from contrastive_nb.kernels import Concat, Cosine, Exponential, Gaussian, Product, Scaled, Sum, cosine, diagnose, gaussian, laplacian, tracing, unit

seeds = st.integers(0, 2**31-1)
def rows(seed, *shape, dtype=torch.float64): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
def scalar(k, x, y, T):
    "log k of two vectors, from the formula."
    if isinstance(k, Scaled): return scalar(k.part, x, y, k.factor*T)
    if isinstance(k, Sum): return math.log(sum(w*math.exp(scalar(p, x, y, T)) for p,w in zip(k.parts, k.weights or [1]*len(k.parts))))
    if isinstance(k, Product): return sum(scalar(p, x, y, T) for p in k.parts)
    if isinstance(k, Cosine): return float(x@y)/math.sqrt(float(x@x)*float(y@y))/T
    if k.normalise: x,y = x/math.sqrt(float(x@x)),y/math.sqrt(float(y@y))
    if isinstance(k, Concat):
        s = len(x)//len(k.parts)
        return math.log(sum(math.exp(scalar(p, x[i*s:i*s+s], y[i*s:i*s+s], T)) for i,p in enumerate(k.parts)))
    d = math.sqrt(sum(float(a-b)**2 for a,b in zip(x, y)))
    return -d**2/(2*T) if isinstance(k, Gaussian) else -d**k.gamma/T

kernels = [cosine, gaussian, Gaussian(normalise=True), laplacian, Exponential(.5), Exponential(2., normalise=True), laplacian+gaussian, .3*laplacian+.7*gaussian,
           laplacian*gaussian, laplacian|gaussian, Concat((laplacian, Exponential(2.)), normalise=True), gaussian.scaled(3), laplacian+gaussian.scaled(3)]

@pytest.mark.parametrize("k", kernels, ids=str)
@given(seed=seeds, T=st.floats(.05, 5))
@settings(max_examples=5, deadline=None)
def test_formula(k, seed, T):
    x,y = rows(seed, 3, 4),rows(seed+1, 5, 4)
    want = torch.tensor([[scalar(k, a, b, T) for b in y] for a in x], dtype=torch.float64)
    assert_close(k(x, y, T), want, rtol=1e-9, atol=1e-9)
    assert_close(k.pairs(x, y[:3], T), want.diagonal(), rtol=1e-9, atol=1e-9)
    assert_close(k(x.expand(2, 3, 4), y, T), want.expand(2, 3, 5), rtol=1e-9, atol=1e-9)
    if k.has_features:
        a,c = k.features(x, x, T)
        assert_close(a@c.mT, k(x, x, T))

@pytest.mark.parametrize("k", kernels, ids=str)
def test_gradcheck(k):
    x,y,T = rows(0, 3, 4).requires_grad_(),rows(1, 2, 4).requires_grad_(),torch.tensor(.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(k, (x, y, T)) and torch.autograd.gradgradcheck(k, (x, y, T))

@pytest.mark.parametrize("k", kernels, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_where_rows_meet(k, dtype):
    "The loss of a distance-only kernel does not move a row that sits on its partner."
    x = rows(3, 4, 4, dtype=dtype).requires_grad_()
    g = torch.autograd.grad(k(x, x.detach().clone(), .1).diagonal().sum(), x)[0]
    assert g.isfinite().all() and g.abs().max() < 1e-5

@given(seed=seeds, scale=st.floats(-18, 18))
@settings(max_examples=20, deadline=None)
def test_cosine_ignores_length(seed, scale):
    x,y = rows(seed, 3, 4, dtype=torch.float32),rows(seed+1, 3, 4, dtype=torch.float32)
    assert_close(cosine(x*10**scale, y, .5), cosine(x, y, .5), rtol=1e-4, atol=1e-5)
    assert_close(cosine(x*10.**30, y*10.**-30, .5), cosine(x, y, .5), rtol=1e-4, atol=1e-5)

def test_gaussian_far_from_origin():
    x,y = rows(0, 4, 3),rows(1, 4, 3)
    far = gaussian((x+1000).float(), (y+1000).float(), 1.)
    assert_close(far.double(), gaussian(x, y, 1.), rtol=2e-3, atol=2e-3)

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_lifted(dtype):
    x,y = rows(0, 4, 3).to(dtype),rows(1, 4, 3).to(dtype)
    for k in kernels[:6]: assert_close(k(x, y, .05), k(x.float(), y.float(), .05))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for k in kernels[:6]: assert_close(k(x, y, .05).double(), k(x.double(), y.double(), .05), rtol=1e-4, atol=1e-4)

def test_two_conventions():
    x,y = rows(0, 4, 3),rows(1, 4, 3)
    assert_close(Exponential(2.)(x, y, .3), gaussian(x, y, .15))
    assert not torch.allclose(Exponential(2.)(x, y, .3), gaussian(x, y, .3))

bad_rows = st.sampled_from([(torch.zeros(2, 3, dtype=torch.int64), TypeError, "floating point, got torch.int64"), ([[1., 2.]], TypeError, "must be a tensor, got list"),
    (torch.zeros(3), ValueError, "got shape \\(3,\\)"), (torch.zeros(0, 3), ValueError, "got shape \\(0, 3\\)"), (torch.ones(2, 4), ValueError, "one width"),
    (torch.ones(2, 3, device="meta"), ValueError, "share a device")])
@given(bad=bad_rows, k=st.sampled_from(kernels[:6]))
@settings(max_examples=30, deadline=None)
def test_bad_rows(bad, k):
    with pytest.raises(bad[1], match=bad[2]): k(torch.ones(2, 3), bad[0], .1)

@given(T=st.one_of(st.floats(max_value=0), st.just(math.nan), st.just(math.inf)), tensor=st.booleans())
@settings(max_examples=30, deadline=None)
def test_bad_temperature(T, tensor):
    with pytest.raises(ValueError, match="temperature must be a positive finite number"): cosine(torch.ones(2, 3), torch.ones(2, 3), torch.tensor(T) if tensor else T)

def test_more_bad_temperatures():
    for T,e in ((torch.ones(2), ValueError), ("0.1", TypeError), (True, TypeError), (None, TypeError)):
        with pytest.raises(e, match="temperature"): cosine(torch.ones(2, 3), torch.ones(2, 3), T)

@pytest.mark.parametrize("k", kernels, ids=str)
def test_named_arguments_and_transforms(k):
    x,y = rows(0, 2, 3, 4),rows(1, 2, 3, 4)
    assert_close(k(y=y, temperature=.5, x=x), k(x, y, .5), rtol=0, atol=0)
    assert_close(torch.func.vmap(lambda a, b: k(a, b, .5))(x, y), k(x, y, .5))

def test_tracing_is_known():
    seen = []
    torch.func.grad(lambda x: seen.append(tracing()) or x.sum())(torch.ones(2))
    assert seen == [True] and not tracing()

def test_upper_bounds():
    "What the streaming engine shifts by: tight for the cosine, zero for a distance."
    x = rows(0, 5, 3)
    for T in (.1, torch.tensor(.1, dtype=torch.float64)):
        for k,bound in ((cosine, 10), (cosine.scaled(.5), 20), (cosine.scaled(2), 5), (gaussian, 0), (gaussian.scaled(2), 0)):
            assert k.upper(T) == pytest.approx(bound) and k(x, x, T).max().item() == pytest.approx(bound)

def test_unit_of_extreme_rows():
    x = torch.tensor([[1e30, 1e-30], [0., -1e-30], [3., 4.]])
    assert_close(unit(x), torch.tensor([[1., 0.], [0., -1.], [.6, .8]]))

@pytest.mark.parametrize("value,word", [(0., "zero"), (math.nan, "nan"), (math.inf, "infinite")])
def test_diagnosis_counts_rows_of_any_shape(value, word):
    x = torch.ones(2, 4, 3); x[1,2],x[1,3] = value,value
    with pytest.raises(ValueError, match=rf"x of shape \(2, 4, 3\): row \[1, 2\] is {word}.* \(2 such rows\)"): diagnose(x=x)
    if value: # a part of the row suffices; a row of few zeros is no zero row
        x = torch.ones(2, 4, 3); x[1,2,0] = value
        with pytest.raises(ValueError, match=rf"row \[1, 2\] is {word}.* \(1 such rows\)"): diagnose(x=x)
    else:
        x = torch.ones(2, 4, 3); x[1,2,0] = x[0,1,1] = 0
        diagnose(x=x)

@pytest.mark.parametrize("value,word", [(0., "zero"), (math.nan, "nan"), (math.inf, "infinite")])
def test_bad_values(value, word):
    x = torch.ones(4, 3); x[2] = value
    with pytest.raises(ValueError, match=rf"y of shape \(4, 3\): row \[2\] is {word}"): cosine(torch.ones(4, 3), x)
    assert unit(torch.zeros(1, 3)).isnan().all()

def test_bad_kernels():
    for f in (lambda: Exponential(0.), lambda: gaussian.scaled(-1), lambda: -1*gaussian, lambda: Sum((gaussian,), (1., 2.)), lambda: Sum((gaussian, laplacian), (1., 0.)), lambda: (laplacian|gaussian)(torch.ones(2, 3), torch.ones(2, 3))):
        with pytest.raises(ValueError): f()
