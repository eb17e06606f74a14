"Generating processes undo themselves, batches have the laws they claim, exact losses agree with a second computation, a killed command goes on along the same curve."
import json, math, signal, subprocess, sys, time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import ive
from torch.testing import assert_close

from contrastive_nb import synthetic
from contrastive_nb.ledger import read_rows
from contrastive_nb.core import stream
from contrastive_nb.processes import PROCESSES, make_process, patches, spiral
from contrastive_nb.sphere import haar_orthogonal, mean_resultant, slice_concentration, uniform_sphere
from contrastive_nb.synthetic import (Capped, CheckpointError, Recovery, batch_loss, degree, draw_batch, estimate_loss, fit, floor_loss, forget_u, isometry_loss, keep_u, load_state,
    recover, recovery_rows, save_state, start, summary, table_cells, update)

quick = settings(max_examples=25, deadline=None)

# Processes

@quick
@given(st.sampled_from(list(PROCESSES)), st.integers(0, 10**6))
def test_inverse_returns_the_latents(name, seed):
    g = make_process(name, stream(seed, "process"))
    z = uniform_sphere(300, g.dim, stream(seed, "z"), torch.double)
    x = g(z)
    assert x.shape == (300, g.observed) and x.dtype == torch.double
    assert_close(g.inverse(x), z, rtol=0, atol=1e-7)

def test_patches_and_spiral_by_hand():
    z = torch.tensor([[1., 0, 0], [.6, 0, .8], [0, -.6, -.8]]).double()
    turned = torch.stack([torch.tensor([.6*math.cos(1.6*math.pi), .6*math.sin(1.6*math.pi), .8]), torch.tensor([.6*math.sin(-1.6*math.pi), -.6*math.cos(1.6*math.pi), -.8])]).double()
    assert_close(spiral(z), torch.cat([z[:1], turned]), rtol=0, atol=1e-6)
    # (.6, 0, .8) lies in the top slice, which turns by -pi; tipped over, (-.6, 0, .8) becomes (.8, 0, .6), in the top slice again
    assert_close(patches(z[1:2]), torch.tensor([[-.8, 0, .6]]).double(), rtol=0, atol=1e-12)

# Batches

configs = st.builds(lambda fixed, how, rho, slices, B, M, seed: Recovery(fixed=fixed, concentration=how, rho=rho, batch=slices*B, anchors_per_slice=B if rho else 1, negatives=M, seed=seed),
    st.integers(0, 3), st.sampled_from(["restricted", "constant"]), st.sampled_from([0., .3, .5, 1.]), st.integers(1, 6), st.integers(1, 5), st.integers(1, 20), st.integers(0, 99))

@quick
@given(configs)
def test_everything_lies_where_it_should(c):
    z, p, shared, own = draw_batch(c, stream(c.seed))
    M1 = round(c.rho*c.negatives)
    assert z.shape == p.shape == (c.batch, 3) and shared.shape == (c.negatives - M1, 3) and own.shape == (c.batch//c.anchors_per_slice, M1, 3)
    for part in (z, p, shared, own): assert_close(part.norm(dim=-1), torch.ones(part.shape[:-1]), rtol=0, atol=1e-5)
    assert torch.equal(z[:, :c.fixed], p[:, :c.fixed])
    assert_close(own.repeat_interleave(c.anchors_per_slice, 0)[..., :c.fixed], z[:, None, :c.fixed].expand(-1, M1, -1), rtol=0, atol=1e-6)

@quick
@given(st.floats(1., 180.), st.floats(0., 50.), st.integers(0, 99))
def test_capped_positives_stay_in_the_cap_and_have_its_mean_cosine(half_angle, kappa, seed):
    c = Capped(half_angle=half_angle, kappa=kappa, batch=4000)
    z, p, *_ = draw_batch(c, stream(seed))
    cosine = (z*p).sum(1).double()
    assert cosine.min() > math.cos(math.radians(half_angle)) - 1e-5
    want = c.mean_cosine(torch.ones(1, dtype=torch.double))
    assert (cosine.mean() - want).abs() < 5*cosine.std()/4000**.5 + 1e-5
    assert c.key != Recovery(kappa=kappa, batch=4000).key

def test_a_cap_of_180_degrees_is_no_cap():
    assert isometry_loss(Capped(half_angle=180.)) == pytest.approx(isometry_loss(Recovery()), abs=1e-10)
    assert math.isnan(floor_loss(Capped()))
    for bad in (0., 200., -5., math.nan):
        with pytest.raises(ValueError, match="half_angle must be in"): Capped(half_angle=bad)
    for bad in (dict(fixed=1), dict(rho=.5)):
        with pytest.raises(ValueError, match="Capped has no fixed coordinates"): Capped(**bad)

def test_single_runs_take_cap_batch_and_negatives(tmp_path):
    assert recover(process="identity", cap=60., batch=32, negatives=16, steps=3, out=tmp_path, device="cpu") == 0
    row, = recovery_rows(tmp_path/"runs.jsonl")
    assert row["config"]["half_angle"] == 60 and row["config"]["batch"] == 32 and row["config"]["negatives"] == 16 and row["floor"] is None

@pytest.mark.parametrize("B", [1, 8])
@pytest.mark.parametrize("how", ["restricted", "constant"])
def test_shared_slices_keep_the_law(B, how):
    c = Recovery(fixed=1, concentration=how, rho=1, batch=80_000, negatives=2, anchors_per_slice=B)
    z, p, _, own = draw_batch(c, stream(B, how))
    assert_close(z.T @ z/len(z), torch.eye(3)/3, rtol=0, atol=.012) and z.mean(0).abs().max() < .012
    r = z[:, 1:].norm(dim=1)
    mean = (mean_resultant(slice_concentration(r.double(), c.kappa, how), 2)*r**2).mean()
    assert abs((z*p)[:, 1:].sum(1).mean() - mean) < .01                     # positives
    n = own.repeat_interleave(B, 0)
    assert (z[:, None]*n)[..., 1:].sum(-1).mean().abs() < .01               # negatives: uniform on the slice, whatever the anchor

def test_loss_is_the_formula():
    c = Recovery(fixed=1, rho=.5, batch=6, negatives=4, anchors_per_slice=3, temperature=.7)
    z, p, shared, own = draw_batch(c, stream(0))
    expected = 0
    for i in range(6):
        pos = math.exp(z[i] @ p[i]/.7)
        expected -= math.log(pos/(pos + sum(math.exp(z[i] @ n/.7) for n in [*own[i//3], *shared])))/6
    assert_close(batch_loss(lambda z: z, c, (z, p, shared, own)).item(), expected, rtol=1e-5, atol=0)
    assert_close(batch_loss(lambda z: z, replace(c, separate=True), (z, p, shared, own)).item(), expected, rtol=1e-5, atol=0)

# Exact values

def on_the_sphere(fixed, how, rho, T=.3, kappa=1/.3):
    "Isometry and floor for one fixed coordinate of S^2 by Gauss-Legendre over u and scaled Bessel functions: nothing shared with the package."
    u, w = np.polynomial.legendre.leggauss(400)
    r, w = np.sqrt(1 - u**2), w/2
    c = kappa*r**2 if how == "restricted" else kappa*np.ones_like(r)
    A = ive(1, c)/ive(0, c)
    log_i0 = lambda x: np.log(ive(0, x)) + x
    sphere = math.log(math.sinh(1/T)*T)
    spread = np.log(rho*np.exp(u**2/T + log_i0(r**2/T)) + (1 - rho)*math.exp(sphere))
    floor = {0: -1/T + sphere, 1: (w*(log_i0(c) - c*A)).sum()}.get(rho, math.nan)
    return (w*(spread - (u**2 + r**2*A)/T)).sum(), floor

@pytest.mark.parametrize("how", ["restricted", "constant"])
@pytest.mark.parametrize("rho", [0, .3, 1])
def test_exact_values_by_a_second_computation(how, rho):
    c = Recovery(fixed=1, concentration=how, rho=rho)
    isometry, floor = on_the_sphere(1, how, rho)
    assert_close(isometry_loss(c), isometry, rtol=0, atol=1e-9)
    if rho == .3: assert math.isnan(floor_loss(c))
    else: assert_close(floor_loss(c), floor, rtol=0, atol=1e-9)

def test_exact_values_at_the_ends():
    assert_close(isometry_loss(Recovery()), -(1/math.tanh(1/.3) - .3)/.3 + math.log(math.sinh(1/.3)*.3), rtol=0, atol=1e-12)
    for rho in (0., 1.): assert isometry_loss(Recovery(rho=rho)) == pytest.approx(isometry_loss(Recovery(rho=rho, concentration="constant")))
    assert isometry_loss(Recovery(fixed=3, rho=1.)) == pytest.approx(0) and isometry_loss(Recovery(fixed=3)) == pytest.approx(floor_loss(Recovery(fixed=3)))

@pytest.mark.parametrize("c", [Recovery(), Recovery(fixed=1), Recovery(fixed=1, rho=1.), Recovery(fixed=1, rho=1., concentration="constant"), Recovery(process="linear70", fixed=4, concentration="constant")])
def test_no_map_falls_below_the_floor(c):
    Q = haar_orthogonal(1, c.dim, stream(0))[0].float()
    assert_close(estimate_loss(lambda z: z @ Q, c, stream(1)), isometry_loss(c), rtol=0, atol=1e-5)
    for h in (forget_u, keep_u, lambda z: torch.nn.functional.normalize(z**3, dim=1)): assert estimate_loss(h, c, stream(2)) > floor_loss(c) - .02

# Degree

def test_degree_counts_orientation():
    Q = haar_orthogonal(20, 3, stream(0)).float()
    for q in Q: assert degree(lambda z: z @ q, bands=32) == pytest.approx(torch.linalg.det(q.double()).item(), abs=1e-3)
    assert degree(keep_u) == pytest.approx(0, abs=1e-6)
    assert degree(make_process("spiral")) == pytest.approx(1, abs=1e-3)

# Runs

tiny = dict(batch=64, widths=(16, 16), steps=40)

def test_training_recovers_what_theory_says():
    "Full support: recovered; the loss comes down to the floor and not below it."
    state = fit(Recovery(widths=(64, 64), steps=150), device="cpu", looks=2, progress=False)
    state.encoder.eval()
    assert state.trace[-1][2] > .97
    assert -.01 < estimate_loss(state.h, state.config, stream(0, "test")) - floor_loss(state.config) < .05

@pytest.mark.parametrize("fields", [dict(), dict(process="spiral", encoder="inverse", fixed=1, rho=.5, negatives=8, anchors_per_slice=4), dict(separate=True, fixed=1, decay=False)])
def test_resume_is_exact(tmp_path, fields):
    c = Recovery(**tiny | fields)
    broken = start(c)
    for _ in range(17): update(broken)
    save_state(tmp_path/c.key/"resume.pt", broken)
    resumed, whole = (fit(c, where, "cpu", looks=2, progress=False) for where in (tmp_path, None))
    assert torch.equal(resumed.curve, whole.curve) and (whole.curve[17:] != 0).all()
    for a, b in zip(resumed.encoder.state_dict().values(), whole.encoder.state_dict().values()): assert torch.equal(a, b)

COMMAND = "from contrastive_nb.synthetic import recover; recover(process='identity', steps=400, out={!r}, device='cpu')"

@pytest.mark.processes
def test_a_killed_command_goes_on_along_the_same_curve(tmp_path):
    code = "import contrastive_nb.synthetic as s; s.fit.__defaults__ = (None, 'auto', 0., 2, True); " + COMMAND.format(str(tmp_path)) # a checkpoint after every step
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    c = Recovery(steps=400)
    path, end = tmp_path/c.key/"resume.pt", time.time() + 100
    while time.time() < end and not (path.exists() and load_state(path, start(c)).step >= 5): time.sleep(.05)
    child.send_signal(signal.SIGKILL); child.wait()
    half = load_state(path, start(c))
    assert 5 <= half.step < 400 and not recovery_rows(tmp_path/"runs.jsonl")
    goal = half.step + 10
    while half.step < goal: update(half)
    whole = start(c)
    while whole.step < goal: update(whole)
    assert torch.equal(whole.curve[:goal], half.curve[:goal])

def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(synthetic, "RUNS", tmp_path/"package.jsonl")
    monkeypatch.setattr(synthetic, "require_traceable", lambda what: None)
    monkeypatch.setitem(synthetic.PROTOCOLS, "slow", tiny)
    monkeypatch.setitem(synthetic.SHARED, "slow", dict(negatives=8, anchors_per_slice=8))
    monkeypatch.setattr(synthetic.measure, "__defaults__", (1,))
    out = tmp_path/"out"
    how = dict(table=1, only="identity/corrected*;linear/inverse, Alg*", out=str(out), device="cpu")
    assert recover(seeds=1, **how) == 0
    first = read_rows(out/"runs.jsonl")
    assert "3 of 3 runs to do on cpu with 1 threads; expected time" in capsys.readouterr().out and len(first) == 3 and not (tmp_path/"package.jsonl").exists()
    assert recover(seeds=2, record=True, **how) == 0
    printed = capsys.readouterr().out
    assert "3 of 6 runs to do" in printed and (out/"table1.png").stat().st_size > 5000
    rows = read_rows(tmp_path/"package.jsonl")
    assert {r["key"] for r in rows} == {r["key"] for r in read_rows(out/"runs.jsonl")} and len(rows) == 6 and rows[0]["config"]["seed"] == 0
    frame = summary(rows, table_cells(1, "slow", how["only"])).set_index("column")
    two = [r["r2"] for r in rows if r["column"] == "corrected, Eq. 6"]
    assert frame.n.tolist() == [2, 2, 2] and frame.loc["corrected, Eq. 6", "R2"] == pytest.approx(sum(two)/2) and frame.loc["corrected, Eq. 6", "se"] == pytest.approx(abs(two[0] - two[1])/2)
    assert math.isnan(frame.loc["corrected, Eq. 6", "printed"]) and frame.loc["corrected, Alg. 13", "printed"] == .63
    for r in rows: json.dumps(r, allow_nan=False)

@pytest.mark.parametrize("bad, message", [(dict(table=3), "no table 3"), (dict(table=1, tier="huge"), "no tier 'huge'"), (dict(process="helix"), "one of identity"), (dict(process="invertible_mlp", encoder="inverse"), "no inverse encoder"),
    (dict(fixed=4), "fixed must be in 0..3, not 4"), (dict(rho=1.5), r"rho must be in \[0, 1\], not 1.5"), (dict(device="abacus"), "no such device"), (dict(table=1, only="nothing"), "no cell of table 1")])
def test_bad_input_is_named_before_anything_runs(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message): recover(out=str(tmp_path/"out"), **bad)
    assert not (tmp_path/"out").exists()

def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    c = Recovery(**tiny)
    save_state(tmp_path/"a.pt", start(c))
    with pytest.raises(CheckpointError, match="belongs to run"): load_state(tmp_path/"a.pt", start(replace(c, seed=1)))
    (tmp_path/"a.pt").write_bytes((tmp_path/"a.pt").read_bytes()[:999])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"): load_state(tmp_path/"a.pt", start(c))
