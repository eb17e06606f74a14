"Graphs: dense against sparse, laws over a space of weights, and the augmentation graph against its definition."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import sparse
from torch.testing import assert_close

from contrastive_nb.core import stream
from contrastive_nb.graphs import (all_graphs, all_maps, augmentation_graph, block_graph, check_sparse, laplacian, sample_maps, shifts, stationary, transition,
    walk_spectrum)

torch.set_num_threads(1)
quick = settings(max_examples=40, deadline=None)

@st.composite
def graphs(draw, symmetric=False, zeros=False):
    "Weights between 0.01 and 100 on 2 to 9 nodes, some of them zero on request; a ring keeps the graph in one piece."
    n = draw(st.integers(2, 9))
    w = torch.rand(n, n, generator=stream(draw(st.integers(0, 10**6)), "graph"), dtype=torch.double)
    pi = 10**(4*w - 2)
    if zeros: pi = pi*(torch.rand(n, n, generator=stream(draw(st.integers(0, 10**6)), "zeros")) < .5) + torch.eye(n).roll(1, 0)
    return pi + pi.T if symmetric else pi

@given(graphs(zeros=True))
@quick
def test_transition_and_stationary_law(pi):
    P = transition(pi)
    assert_close(P.sum(1), torch.ones(len(pi), dtype=torch.double))
    assert_close(P*pi.sum(1, keepdim=True), pi)
    p = stationary(pi)
    assert (p > 0).all()
    assert_close(p.sum().item(), 1.)
    assert_close(p @ P, p, rtol=1e-8, atol=1e-12)

@given(graphs(symmetric=True))
@quick
def test_symmetric_weights_rest_at_their_degrees(pi):
    assert_close(stationary(pi), pi.sum(1)/pi.sum(), rtol=1e-9, atol=0)

@given(graphs(), st.integers(1, 4))
@quick
def test_laplacian_is_the_energy_of_the_edges(pi, d):
    Z = torch.randn(len(pi), d, generator=stream(d, "Z"), dtype=torch.double)
    energy = sum(pi[i, j]*(Z[i] - Z[j]).square().sum() for i in range(len(pi)) for j in range(len(pi)))/2
    assert_close((Z.T @ laplacian(pi) @ Z).trace(), energy)
    assert torch.linalg.eigvalsh(laplacian(pi)).min() > -1e-9*pi.max()

@given(graphs(symmetric=True))
@quick
def test_spectrum_dense_and_sparse(pi):
    n = len(pi)
    value, e = walk_spectrum(pi, n)
    p = stationary(pi)
    assert_close(transition(pi) @ e, value*e, rtol=0, atol=1e-9*e.abs().max().item())
    assert_close(e.T @ (p[:, None]*e), torch.eye(n, dtype=torch.double), rtol=0, atol=1e-9)
    assert_close(value[0].item(), 1.)
    assert_close(e[:, 0].abs(), torch.ones(n, dtype=torch.double))
    assert_close(value.sum().item(), transition(pi).trace().item())
    if n > 2: assert_close(walk_spectrum(sparse.csr_array(pi.numpy()), n - 1)[0], value[:-1], rtol=0, atol=1e-9)

def test_sparse_and_dense_maps_have_one_law():
    pi = block_graph(2, 3, .3, jitter=.5, generator=stream(0, "maps"))
    pi[0, 1] = 0.
    draws, P = 20_000, transition(pi)
    for graph in (pi, sparse.csr_array(pi.numpy())):
        maps = sample_maps(graph, draws, stream(1, "maps"))
        assert maps.shape == (draws, 6) and maps.dtype == torch.long
        share = torch.stack([(maps == j).double().mean(0) for j in range(6)], 1)
        assert ((share - P).abs() < 5*(P*(1 - P)/draws).sqrt() + 1e-15).all() # a weight of zero is never drawn
        assert (maps[:, 0] != 1).all()
        both = ((maps[:, 0] == 2) & (maps[:, 3] == 4)).double().mean()
        assert abs(both - P[0, 2]*P[3, 4]) < 5*(P[0, 2]*P[3, 4]/draws)**.5

def test_maps_and_graphs_are_counted():
    assert len(all_graphs(3)) == 2**9 and len(all_graphs(3).unique(dim=0)) == 2**9
    assert len(all_maps(4)) == 4**4 and len(all_maps(4).unique(dim=0)) == 4**4
    for f, n in [(all_graphs, 5), (all_maps, 8), (all_maps, 0)]:
        with pytest.raises(ValueError, match=str(n)): f(n)

@given(st.integers(1, 4), st.integers(1, 4), st.floats(0, .9))
@quick
def test_block_graph(blocks, size, jitter):
    across = torch.rand(blocks, blocks, generator=stream(blocks, "across"), dtype=torch.double)
    across = (across + across.T)/4
    pi = block_graph(blocks, size, across, jitter, stream(size, "jitter"), self_loops=True)
    base = across.repeat_interleave(size, 0).repeat_interleave(size, 1)
    inside = torch.eye(blocks, dtype=torch.bool).repeat_interleave(size, 0).repeat_interleave(size, 1)
    assert_close(pi, pi.T)
    assert ((pi/torch.where(inside, 1., base) - 1).abs() <= jitter + 1e-9).all()
    assert block_graph(blocks, size, across, jitter, stream(size, "jitter")).diagonal().eq(0).all()

def test_blocks_refuse():
    for args in [(0, 3), (2, 0), (2, 3, -.1), (2, 3, .1, 1.), (2, 3, float("nan"))]:
        with pytest.raises(ValueError, match="no graph with"): block_graph(*args)
    for across in (torch.ones(3, 3), torch.tensor([[1., .2], [.1, 1]]), torch.ones(2)):
        with pytest.raises(ValueError, match="one number or a symmetric"): block_graph(2, 3, across)

@given(st.integers(4, 12), st.integers(1, 5), st.integers(1, 3), st.floats(.3, 2.))
@quick
def test_augmentation_graph_is_its_definition(n, m, t, bandwidth):
    g = stream(n, m, t, "augmentation")
    views, templates = torch.randn(n, 3, generator=g, dtype=torch.double), torch.randn(m, t, 3, generator=g, dtype=torch.double)
    A = torch.zeros(n, m, dtype=torch.double)
    for i in range(n):
        for a in range(m):
            for s in range(t): A[i, a] += np.exp(-(views[i] - templates[a, s]).square().sum().item()/(2*bandwidth**2))
    A = A/A.sum(0)
    assert_close(torch.from_numpy(augmentation_graph(views, templates, bandwidth, n, self_loops=True).toarray()), A @ A.T, rtol=1e-6, atol=1e-12)
    keep = (n + 1)//2
    B = A*(A >= A.topk(keep, dim=0).values[-1])
    B = B/B.sum(0)
    W = B @ B.T
    if (W.sum(1) > 0).all(): assert_close(torch.from_numpy(augmentation_graph(views, templates, bandwidth, keep, self_loops=True).toarray()), W, rtol=1e-6, atol=1e-12)
    else:
        with pytest.raises(ValueError, match="no outgoing edge"): augmentation_graph(views, templates, bandwidth, keep, self_loops=True)

def test_augmentation_graph_in_slices(monkeypatch):
    "The slices that bound memory do not change the graph: more data than one slice holds."
    n, m = 300, 2000
    views, templates = torch.randn(n, 2, generator=stream(0, "v")), 1.5*torch.randn(m, 9, 2, generator=stream(0, "t"))
    whole = augmentation_graph(views, templates, .5, 9, self_loops=True) # 776 data to a slice
    log_a = (torch.cdist(views, templates.reshape(-1, 2)).square()/(-2*.5**2)).view(n, m, 9).logsumexp(2)
    top = log_a.topk(9, dim=0)
    A = torch.zeros(n, m).scatter_(0, top.indices, top.values.softmax(0)).double()
    gap = (torch.from_numpy(whole.toarray()) - A @ A.T).abs().max()
    assert gap < 1e-4 and abs(whole - whole.T).max() < 1e-12

def test_shifts_move_zeros_in():
    image = torch.arange(1., 13.).view(1, 3, 4)
    out = shifts(image, 2).view(25, 3, 4)
    for i, (down, right) in enumerate((2 - i, 2 - j) for i in range(5) for j in range(5)):
        expected = torch.zeros(3, 4)
        for r in range(3):
            for c in range(4):
                if 0 <= r - down < 3 and 0 <= c - right < 4: expected[r, c] = image[0, r - down, c - right]
        assert torch.equal(out[i], expected)

def test_sparse_graphs_are_refused_as_dense_ones_are():
    for bad, message in [(np.ones((2, 3)), "square"), ([[1., -1], [1, 1]], ">= 0"), ([[1., np.nan], [1, 1]], "finite"), ([[1., 0], [0, 0]], "node 1 has no")]:
        with pytest.raises(ValueError, match=message): check_sparse(sparse.csr_array(bad))
        with pytest.raises(ValueError): transition(torch.tensor(np.asarray(bad)))
    stored = sparse.csr_array(([1., 0., 1.], ([0, 0, 1], [0, 1, 1])), shape=(2, 2)) # a stored zero is no edge
    assert (sample_maps(stored, 100, stream(0, "stored")) == torch.arange(2)).all()
    with pytest.raises(ValueError, match="2 eigenpairs of 2 nodes"): walk_spectrum(stored, 2)
