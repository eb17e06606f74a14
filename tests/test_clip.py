"The pair graph against loops and lists over random tables, and the retrieval demonstration's parts."
import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from contrastive_nb import clip as C
from contrastive_nb.graphs import laplacian, transition
from contrastive_nb.kernels import Exponential, cosine, gaussian
from contrastive_nb.losses import clip_loss

torch.set_num_threads(1)
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
def rows(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)

@given(seeds, st.integers(1, 3), st.integers(1, 3))
@quick
def test_two_directions_by_listing_maps(seed, a, b):
    J, S = rows(seed, a, b).exp(), rows(seed + 1, a, b)
    H = 0.
    for weights, logits in ((J, S), (J.T, S.T)):
        P, Q = weights/weights.sum(1, keepdim=True), logits.exp()/logits.exp().sum(1, keepdim=True)
        for c in itertools.product(range(weights.shape[1]), repeat=weights.shape[0]):
            H -= math.prod(P[i, j].item() for i, j in enumerate(c))*sum(math.log(Q[i, j]) for i, j in enumerate(c))
    assert_close(C.clip_cross_entropy(J, S).item(), H)
    images, texts = C.clip_cross_entropy(J, S, "none")
    assert images.shape == (a,) and texts.shape == (b,)
    assert_close((images.sum() + texts.sum()).item(), H)

@given(seeds, st.integers(2, 6), st.integers(2, 6), st.floats(.1, 3))
@quick
def test_trace_form(seed, a, b, T):
    J, X, Y = rows(seed, a, b).exp(), rows(seed + 1, a, 3), rows(seed + 2, b, 3)
    S, Z = gaussian(X, Y, T), torch.cat([X, Y])
    trace = (Z.T @ laplacian(transition(C.pair_graph(J))) @ Z).trace()/T
    assert_close(trace + S.logsumexp(1).sum() + S.logsumexp(0).sum(), C.clip_cross_entropy(J, S))

@pytest.mark.parametrize("kernel", [cosine, gaussian, Exponential(1.)], ids=str)
def test_matching_is_the_library_loss(kernel):
    x, y = rows(0, 7, 4), rows(1, 7, 4)
    assert_close(C.clip_cross_entropy(torch.eye(7).double(), kernel(x, y, .3))/14, clip_loss(x, y, .3, kernel=kernel))

@given(seeds)
@quick
def test_weights_count_by_proportion(seed):
    J, S = rows(seed, 4, 3).exp(), rows(seed + 1, 4, 3)
    assert_close(C.clip_cross_entropy(7*J, S), C.clip_cross_entropy(J, S))
    assert_close(C.batch_clip(7*J, S), C.batch_clip(J, S))
    assert_close(C.batch_clip(J, S + 3), C.batch_clip(J, S)) # both are softmaxes
    p, q = J.sum(1)/J.sum(), J.sum(0)/J.sum()
    best = J.log() - p.log()[:, None] - q.log()
    assert C.batch_clip(J, best) <= C.batch_clip(J, S) + 1e-12
    assert_close(C.batch_clip(J, best), -2*(J/J.sum()*(J/J.sum()/(p[:, None]*q)).log()).sum()) # minus twice the mutual information

@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 6), st.floats(0, 1))
@quick
def test_rewriting_in_closed_form(c, size, m, leak):
    J = C.rewritten_pairs(c, size, m, leak)
    assert J.shape == (c*size, c*size + c*m)
    assert_close(J.sum(1), torch.ones(c*size, dtype=torch.double))
    J = J[:, J.sum(0) > 0]
    beta2 = (1 - leak*c/(c - 1))**2
    want = torch.tensor([1.] + (c - 1)*[(1 + m*beta2)/(m + 1)] + (c*size - c)*[1/(m + 1)], dtype=torch.double)
    assert_close(torch.linalg.svdvals(C.normalised_table(J))[:c*size]**2, want.sort(descending=True).values, rtol=1e-9, atol=1e-9)

@given(seeds, st.integers(2, 4), st.integers(1, 5), st.integers(0, 4))
@quick
def test_drawn_rewritings(seed, c, size, m):
    draw = lambda leak: C.draw_rewritings(c, size, m, 3, leak, torch.Generator().manual_seed(seed))
    J = draw(0.)
    assert_close(J.sum(1), torch.full((c*size,), 1. + m, dtype=torch.double))
    assert (J.sum(0) > 0).all() and (J[:, :c*size] == torch.eye(c*size)).all()
    cluster = torch.arange(c).repeat_interleave(size)
    own = lambda J: all(len(cluster[J[:, t] > 0].unique()) == 1 for t in range(J.shape[1]))
    assert own(J) # without a leak no text is shared by two clusters
    if m and c == 2: # with a leak of one every rewriting leaves its cluster
        away = draw(1.)[:, c*size:]
        assert away.shape[1] > 0 and own(away)
    assert C.rewritten_pairs(c, size, m, private=True).shape == (c*size, c*size*(1 + m))

def test_singular_values_count_components():
    J = torch.block_diag(torch.ones(2, 3), torch.ones(4, 2), torch.ones(1, 1)).double()
    s = torch.linalg.svdvals(C.normalised_table(J))
    assert (s > 1 - 1e-12).sum() == 3 and s.max() < 1 + 1e-12

def test_embeddings_find_clusters_that_are_there():
    J = torch.block_diag(*3*[torch.ones(6, 4)]).double() + 1e-3
    g = torch.Generator().manual_seed(0)
    Z = C.embed_pairs(J, 3, g)
    assert_close(Z.norm(dim=1), torch.ones(18, dtype=torch.double))
    assert C.cluster_score(Z, 3) == C.cluster_score(C.spectral_images(J, 3), 3) == 1
    assert C.cluster_score(rows(0, 18, 3), 3) < .4

def test_captions():
    x = torch.zeros(2, 8, 8)
    x[0, :, 0] = 1 # a stroke at the left edge
    x[1, 3] = torch.tensor([1., 0, 1, 0, 1, 0, 1, 0]) # four crossings count as three
    words = C.caption(x.flatten(1))
    assert words[0].tolist() == 8*[4] + [4 + 1] + 7*[0]
    assert words[1, 3] == 4*3 + 1 and words[1, 8:].tolist() == [5, 0, 5, 0, 5, 0, 5, 0]
    bag = C.speak(words)
    assert bag.shape == (2, 256) and (bag.sum(1) == 16).all() and (C.speak(words, 0.) == 0).all()
    assert_close(bag.view(2, 16, 16).argmax(2), words)
    half = C.speak(words[:1].expand(2000, -1), .5, torch.Generator().manual_seed(0)).sum(1)
    assert abs(half.mean() - 8) < .2 and half.std() > 1

def test_recall():
    S = torch.tensor([[3., 2, 1], [3, 2, 1], [3, 2, 1]])
    assert [C.recall(S, k) for k in (1, 2, 3)] == [1/3, 2/3, 1] and C.recall(torch.ones(3, 3), 2) == 0 # ties count against
    assert C.recall(torch.eye(5)) == 1

def test_linear_reference_is_canonical_correlation():
    u = rows(0, 400, 2).float()
    x, y = torch.cat([u, rows(1, 400, 3).float()], 1) @ rows(2, 5, 5).float(), torch.cat([u, rows(3, 400, 4).float()], 1) @ rows(4, 6, 6).float()
    see, read = C.linear_reference(x, y, dim=2, ridge=1e-3)
    a, b = see(x), read(y)
    assert (torch.corrcoef(torch.cat([a.T, b.T]))[:2, 2:].diagonal() > .99).all()
    assert C.recall(cosine(a, b)) > C.recall(cosine(a, b.roll(1, 0))) + .3

def test_training_learns_to_retrieve():
    images, words, y = C.digit_pairs()
    assert images.shape == (1797, 64) and words.shape == (1797, 16) and len(y) == 1797
    see, read, heat = C.train_towers(images[:300], words[:300], 0, steps=25)
    assert 0 < heat != .2
    trained, fresh = C.retrieval(see, read), C.retrieval(*C.train_towers(images[:300], words[:300], 0, steps=0)[:2])
    assert trained["image to text @5"] > 5*fresh["image to text @5"]

@pytest.mark.parametrize("call, message", [
    (lambda: C.pair_graph(torch.ones(3)), r"a table of images by texts, not \(3,\)"),
    (lambda: C.pair_graph(torch.tensor([[1., float("nan")]])), "finite and >= 0"),
    (lambda: C.pair_graph(torch.tensor([[1., 0], [1, 0]])), "text 1 has no pair"),
    (lambda: C.batch_clip(torch.tensor([[0.], [1]]), torch.zeros(2, 1)), "image 0 has no pair"),
    (lambda: C.clip_cross_entropy(torch.ones(2, 2), torch.ones(1, 2)), r"\(2, 2\) against \(1, 2\)"),
    (lambda: C.clip_cross_entropy(torch.ones(2, 2), torch.ones(2, 2), "mean"), "reduction must be"),
    (lambda: C.rewritten_pairs(1, 2, 3), "no table with 1 clusters of 2"),
    (lambda: C.rewritten_pairs(2, 2, 3, leak=1.5), "leak 1.5"),
    (lambda: C.recall(torch.ones(2, 3)), "rows and columns must pair up"),
    (lambda: C.recall(torch.ones(3, 3), 0), r"k must be in 1..3, got 0")])
def test_refused(call, message):
    with pytest.raises(ValueError, match=message): call()
