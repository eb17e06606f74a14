"Scores against independent implementations and against inputs whose score is known; every refusal."
import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from itertools import permutations
from scipy.linalg import orthogonal_procrustes
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier
from torch.testing import assert_close
from contrastive_nb.metrics import (angle_error, correlation, goodness_of_fit, knn_accuracy, knn_predict, linear_r2, match_columns, mcc, procrustes, procrustes_error, recovery_scores)
from contrastive_nb.sphere import haar_orthogonal, uniform_sphere, vmf

D = torch.float64
seeds = st.integers(0, 2**31-1)
def gen(seed): return torch.Generator().manual_seed(seed)
def pair(seed, n, k, d, dtype=D):
    "Latents and codes that share something."
    rng = gen(seed); z, h = torch.randn(n, k, generator=rng, dtype=dtype) + 3, torch.randn(n, d, generator=rng, dtype=dtype) - 1
    h[:,:min(k, d)] += z[:,:min(k, d)].flip(1)
    return z, h

# linear R2
@given(seed=seeds, k=st.integers(1, 5), d=st.integers(1, 5), held=st.sampled_from([0, .25, .5, .8]), intercept=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_r2_is_scikit_learns(seed, k, d, held, intercept):
    z, h = pair(seed, 60, k, d); test = round(held*60); fit, score = (slice(test, None), slice(test)) if test else (slice(None),)*2
    model = LinearRegression(fit_intercept=intercept).fit(h[fit].numpy(), z[fit].numpy())
    ref = r2_score(z[score].numpy(), model.predict(h[score].numpy()), multioutput="raw_values")
    got = linear_r2(z, h, held, intercept, per_coordinate=True)
    assert_close(got, torch.as_tensor(ref)); assert_close(linear_r2(z, h, held, intercept), ref.mean().item()); assert isinstance(linear_r2(z, h, held), float)
def test_r2_defaults():
    z, h = pair(0, 80, 3, 3)
    assert linear_r2(z, h) == linear_r2(z, h, .5, True, False) != linear_r2(z, h, 0)
    assert abs(linear_r2(z.float(), h.float()) - linear_r2(z, h)) < 1e-6                    # computed in float64
    before = z.clone(), h.clone(); linear_r2(z, h); assert torch.equal(z, before[0]) and torch.equal(h, before[1])
def test_r2_shuffles_only_with_a_generator():
    z, h = pair(1, 80, 2, 2); z, h = z.sort(0)[0], h
    a, b = linear_r2(z, h, generator=gen(0)), linear_r2(z, h, generator=gen(0))
    assert a == b != linear_r2(z, h) and linear_r2(z, h) == linear_r2(z, h) and a > linear_r2(z, h) # sorted latents: the halves differ in mean
    assert_close(linear_r2(z, h, 0, generator=gen(3)), linear_r2(z, h, 0))
@given(seed=seeds)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_r2_is_blind_to_affine_maps(seed):
    z, h = pair(seed, 50, 3, 3); M = torch.randn(3, 3, generator=gen(seed+1), dtype=D) + 3*torch.eye(3, dtype=D)
    assert_close(linear_r2(z, 5*h@M - 7), linear_r2(z, h), rtol=1e-6, atol=1e-6); assert_close(linear_r2(z, z@M + 2), 1., rtol=1e-9, atol=0)
def test_r2_of_noise():
    x = torch.randn(500, 2, 20, 10, generator=gen(2))
    inside = np.array([linear_r2(z, h, 0) for z, h in x]); outside = np.array([linear_r2(z, h, .25) for z, h in x])
    assert abs(inside.mean() - 10/19) < 4*inside.std()/500**.5 and np.median(outside) < -1
def test_r2_of_constant_columns():
    z, h = pair(3, 60, 3, 3); still = h.clone(); still[:,1] = .1
    assert_close(linear_r2(z, still, per_coordinate=True), linear_r2(z, h[:,[0, 2]], per_coordinate=True))
    assert_close(linear_r2(z, torch.zeros(60, 3, dtype=D), 0), 0., rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="column 1 is constant over the 30 rows scored, so its R2"): linear_r2(still, z)
    late = z.clone(); late[:30,0] = 5.                                                      # constant only where it is scored
    with pytest.raises(ValueError, match="column 0"): linear_r2(late, h)
    assert linear_r2(z*1e-9 + 1e-3, h, 0) > .1                                               # small is not constant
@pytest.mark.parametrize("n,d,held,fine", [(5, 4, 0, False), (6, 4, 0, True), (12, 5, .5, False), (14, 5, .5, True), (10, 1, .1, False), (10, 1, .2, True)])
def test_r2_counts_rows(n, d, held, fine):
    z, h = pair(4, n, 2, d)
    if fine: linear_r2(z, h, held)
    else:
        with pytest.raises(ValueError, match=f"{n} rows with held_out={held} leave {n-round(held*n)} to fit {d+1} numbers per latent and {round(held*n)} to score"): linear_r2(z, h, held)
def test_r2_counts_rows_without_intercept():
    z, h = pair(4, 5, 2, 4); assert linear_r2(z, h, 0, intercept=False) < 1
    with pytest.raises(ValueError): linear_r2(z[:4], h[:4], 0, intercept=False)

# matching
@given(seed=seeds, k=st.integers(1, 4), extra=st.integers(0, 2), method=st.sampled_from(["pearson", "spearman"]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_matching_is_the_best_of_all(seed, k, extra, method):
    z, h = pair(seed, 30, k, k+extra)
    if method == "spearman": C = np.array([[abs(spearmanr(z[:,i].numpy(), h[:,j].numpy()).statistic) for j in range(k+extra)] for i in range(k)])
    else: C = np.abs(np.corrcoef(z.T.numpy(), h.T.numpy())[:k,k:])
    best = max(permutations(range(k+extra), k), key=lambda p: sum(C[i,p[i]] for i in range(k)))
    score, column = match_columns(z, h, method)
    assert_close(mcc(z, h, method), C[range(k),best].mean().item()); assert_close(score, torch.as_tensor(C[range(k),column.numpy()]))
    assert len(set(column.tolist())) == k
def test_matching_returns_the_permutation():
    z = uniform_sphere(300, 5, gen(0), D); order = torch.tensor([3, 0, 4, 1, 2]); h = (z*torch.tensor([1., -2., .5, 30., -1.]))[:,order]
    score, column = match_columns(z, h)
    assert_close(score, torch.ones(5, dtype=D)); assert torch.equal(order[column], torch.arange(5))
    assert_close(mcc(z, h**3, "spearman"), 1.); assert mcc(z, h**3) < .95 and mcc(z, h**3) == mcc(z, h**3, "pearson")
def test_ranks_share_ties():
    a, b = torch.randint(4, (2, 40, 2), generator=gen(1)).double()
    assert_close(correlation(a, b, "spearman"), torch.as_tensor(spearmanr(a.numpy(), b.numpy()).statistic[:2,2:]))
def test_constant_up_to_rounding_is_constant():
    "A large offset leaves noise of the size of its rounding; a row at the mean, or small values, are no constants."
    z,noise = torch.tensor([[-1.], [0.], [1.]], dtype=torch.float64),torch.tensor([[1.], [-2.], [1.]], dtype=torch.float64)
    constant = 1e6 + 1e-8*noise
    for call in (mcc, lambda a,b: linear_r2(a, b, 0.)):
        with pytest.raises(ValueError, match="latent column 0 is constant over the 3 rows"): call(constant, z)
        assert call(z, 5*z + 3) == pytest.approx(1) == call(1e-9*z, z) == call(1e3 + 1e-7*z, z)
    assert correlation(z, constant).item() == 0 == correlation(constant, z).item()
    assert_close(correlation(torch.cat([1e-9*z, 1e3 + 1e-7*z], 1), z), torch.ones(2, 1, dtype=torch.float64))

def test_constant_columns_of_codes_count_zero():
    z = uniform_sphere(50, 3, gen(2), D); h = z.clone(); h[:,1] = .3
    for method in ("pearson", "spearman"):
        assert_close(match_columns(z, h, method)[0][[0, 2]], torch.ones(2, dtype=D)); assert correlation(z, h, method)[:,1].abs().max() == 0
        with pytest.raises(ValueError, match="column 1 is constant over the 50 rows scored, so its correlation"): mcc(h, z, method)
def test_mcc_of_rotations():
    for k, mean in ((2, 2*2**.5/math.pi), (3, .830), (10, .592)):
        z = uniform_sphere(4000, k, gen(k), D); x = np.array([mcc(z, z@Q) for Q in haar_orthogonal(200, k, gen(k+1))])
        assert abs(x.mean() - mean) < 4*x.std()/200**.5 + .003

# distances
@given(seed=seeds, k=st.integers(2, 6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_procrustes_is_scipys(seed, k):
    z, h = pair(seed, 30, k, k); Q = orthogonal_procrustes(h.numpy(), z.numpy())[0]
    error, got = procrustes(z, h)
    assert_close(got, torch.as_tensor(Q)); assert_close(error, float(((z.numpy() - h.numpy()@Q)**2).sum()/(z.numpy()**2).sum())); assert procrustes_error(z, h) == error
    R = haar_orthogonal(1, k, gen(seed))[0]; error, back = procrustes(z, z@R.T)
    assert error < 1e-25; assert_close(back, R); assert_close(procrustes_error(z, 2*z), 1.)
@given(seed=seeds, n=st.integers(2, 40), chunk=st.integers(1, 50))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_angle_error_is_the_double_loop(seed, n, chunk):
    z, h = uniform_sphere(n, 3, gen(seed), D), uniform_sphere(n, 4, gen(seed+1), D)
    ref = sum(abs(float(z[i]@z[j]) - float(h[i]@h[j])) for i in range(n) for j in range(n) if i != j)
    assert_close(angle_error(z, h, chunk=chunk), ref/(n*(n-1)), rtol=1e-9, atol=1e-12); assert_close(angle_error(z, h, diagonal=True, chunk=chunk), ref/n**2, rtol=1e-9, atol=1e-12)
    assert_close(angle_error(z, h, halved=True), ref/(n*(n-1))/2, rtol=1e-9, atol=1e-12); assert angle_error(z, z@haar_orthogonal(1, 3, gen(seed))[0]) < 1e-13
def test_angle_error_of_known_maps():
    z = uniform_sphere(3000, 3, gen(5), D); u, v = z[:,:1], z[:,1:]
    assert abs(angle_error(z, uniform_sphere(3000, 3, gen(6), D)) - 2/3) < .01
    assert abs(angle_error(z, torch.cat([u.abs(), v], 1)) - 1/4) < .015                     # the fold: (E|u|)^2
    assert abs(angle_error(z, torch.cat([u, (1-u*u).sqrt(), 0*u], 1)) - math.pi**2/16) < .02
    collapse = torch.cat([0*u, torch.nn.functional.normalize(v, dim=1)], 1)
    assert abs(linear_r2(z, collapse) - math.pi**2/16) < .01 and abs(mcc(z, collapse) - math.pi/6*1.5**.5) < .01 and abs(procrustes_error(z, collapse) - (2-math.pi/2)) < .02
def test_recovery_scores():
    z = uniform_sphere(400, 3, gen(7)); h = vmf(z, 20., gen(8))
    got = recovery_scores(z, h, gen(1))
    assert got == dict(r2=linear_r2(z, h, generator=gen(1)), r2_in_sample=linear_r2(z, h, 0), mcc=mcc(z, h), procrustes=procrustes_error(z, h), ape=angle_error(z, h)) and .5 < got["r2"] < got["mcc"] < 1

# neighbours
@given(seed=seeds, k=st.integers(1, 30), T=st.sampled_from([.05, .5]), chunk=st.integers(1, 70))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_knn_is_scikit_learns(seed, k, T, chunk):
    rng = gen(seed); c = uniform_sphere(4, 6, rng, D); y, yt = torch.arange(100) % 4, torch.arange(60) % 4
    x, xt = vmf(c[y], 3., rng)*5, vmf(c[yt], 3., rng)*2
    ref = KNeighborsClassifier(k, weights=lambda d: np.exp((1-d)/T), metric="cosine", algorithm="brute").fit(x.numpy(), y.numpy()).predict(xt.numpy())
    assert torch.equal(knn_predict(x, y, xt, k, T, chunk), torch.as_tensor(ref)); assert_close(knn_accuracy(x, y, xt, yt, k, T, chunk), float((ref == yt.numpy()).mean()))
def test_knn_defaults_and_extremes():
    rng = gen(0); x, y, xt = uniform_sphere(300, 5, rng), torch.randint(7, (300,), generator=rng), uniform_sphere(50, 5, rng)
    assert torch.equal(knn_predict(x, y, xt), knn_predict(x, y, xt, 200, .07, 1024)) and not torch.equal(knn_predict(x, y, xt), knn_predict(x, y, xt, 200, 5.))
    assert torch.equal(knn_predict(x, y, xt, 300, 1e-5), knn_predict(x, y, xt, 1)) and knn_accuracy(x, y, x, y, 1) == 1  # a cold vote follows the nearest row
    assert torch.equal(knn_predict(x, y.to(torch.uint8), xt), knn_predict(x, y, xt))

def test_goodness_of_fit():
    assert goodness_of_fit(math.log(64), 64) == 0 and goodness_of_fit(0., 8) == math.log(8) and goodness_of_fit(torch.tensor(1.), 1) == -1
    for bad in (0, 2.5, True - 1):
        with pytest.raises(ValueError, match="candidates"): goodness_of_fit(1., bad)

z = uniform_sphere(50, 3, gen(0), D); y = torch.zeros(50).long()
@pytest.mark.parametrize("kind,call,says", [
    (ValueError, lambda: linear_r2(z, z[1:]), r"latents \(50, 3\) against codes \(49, 3\)"), (ValueError, lambda: mcc(z, z*math.nan), "codes hold 150 values"), (ValueError, lambda: procrustes(z*math.inf, z), "latents hold 150"),
    (ValueError, lambda: mcc(z[0], z), r"latents must be a matrix \(n, d\), got shape \(3,\)"), (TypeError, lambda: mcc(z.numpy(), z), "latents must be a tensor, got ndarray"), (ValueError, lambda: angle_error(z[:1], z[:1]), "2 rows are needed at least, got 1"),
    (ValueError, lambda: mcc(z[:2], z[:2]), "3 rows"), (ValueError, lambda: mcc(z, z[:,:2]), "3 latents cannot be matched to 2 codes"), (ValueError, lambda: mcc(z, z, "kendall"), "'kendall'"), (ValueError, lambda: linear_r2(z, z, 1.), "held_out must be in"), (ValueError, lambda: linear_r2(z, z, -.1), "got -0.1"),
    (ValueError, lambda: procrustes_error(z, z[:,:2]), "equal dimensions"), (ValueError, lambda: angle_error(z, 2*z), "codes rows must have norm 1"), (ValueError, lambda: angle_error(2*z, z), "latents rows must have norm 1"),
    (ValueError, lambda: knn_predict(z, y, z, 51), "1..50, got 51"), (ValueError, lambda: knn_predict(z, y, z, 0), "got 0"), (ValueError, lambda: knn_predict(z, y, z[:,:2], 1), r"train \(50, 3\) against test \(50, 2\)"), (ValueError, lambda: knn_predict(z, y[1:], z, 1), "labels must be 50 integers"),
    (ValueError, lambda: knn_predict(z, y.float(), z, 1), "float32"), (ValueError, lambda: knn_predict(z, y, z*math.nan, 1), "nan"), (ValueError, lambda: knn_predict(z*math.nan, y, z, 1), "nan"), (ValueError, lambda: knn_predict(z, y, z, 1, 0.), "temperature must be > 0"), (ValueError, lambda: knn_predict(z[0], y, z, 1), "differ in width"),
    (ValueError, lambda: knn_predict(z, y, z[0], 1), "differ in width"), (ValueError, lambda: knn_accuracy(z, y, z, y[1:], 1), "50 test rows against labels")])
def test_refuses(kind, call, says):
    with pytest.raises(kind, match=says): call()
