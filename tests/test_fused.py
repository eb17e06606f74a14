"The fused kernels in Triton's interpreter, block by block against their twins; on a GPU as they are."
import pytest
import torch
from torch.testing import assert_close

from contrastive_nb import fused, losses, streaming
from contrastive_nb.core import stream

pytestmark = pytest.mark.skipif(fused.triton is None, reason="Triton is not installed")
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
NEAR = dict(rtol=2e-2, atol=1e-3) if CUDA else dict(rtol=1e-5, atol=1e-5)

@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    "Small blocks, so that a tile has several and the last ones hang over its edge."
    if CUDA: return
    monkeypatch.setattr(fused, "INTERPRET", True)
    monkeypatch.setattr(fused, "SHAPE", dict(P=16, Q=32, K=16, GROUP=2))

def rows(n, d, *name): return torch.randn(n, d, generator=stream(0, "fused", *name)).to(DEVICE, DTYPE)
def numbers(n, *name): return torch.rand(n, generator=stream(0, "fused", *name)).to(DEVICE)

@pytest.mark.parametrize("n, m, d, same", [(40, 40, 24, True), (37, 50, 16, False), (70, 20, 8, True), (1, 33, 40, False)])
class TestTiles:
    def test_sums(self, n, m, d, same):
        a, c, shift = rows(n, d, "a"), rows(m, d, "c"), torch.tensor(.7, device=DEVICE)
        for x, y in zip(fused.tile_sums(a, c, shift, same), fused.plain_sums(a, c, shift, same), strict=True): assert_close(x, y, **NEAR)

    @pytest.mark.parametrize("columns", [True, False])
    def test_weights(self, n, m, d, same, columns):
        a, c, shift, h, k = rows(n, d, "a"), rows(m, d, "c"), torch.tensor(.7, device=DEVICE), numbers(n, "h"), numbers(m, "k") if columns else None
        w = fused.tile_weights(a, c, shift, h, k, same, torch.full((n*m+5,), torch.nan, device=DEVICE, dtype=DTYPE))
        assert_close(w, fused.plain_weights(a, c, shift, h, k, same), **NEAR)

    @pytest.mark.parametrize("weights", [True, False])
    def test_sigmoid(self, n, m, d, same, weights):
        a, c, bias, g = rows(n, d, "a"), rows(m, d, "c"), torch.tensor(-3., device=DEVICE), numbers(n, "g") if weights else None
        found = fused.tile_sigmoid(a, c, bias, g, same, torch.full((n*m,), torch.nan, device=DEVICE, dtype=DTYPE))
        for x, y in zip(found, fused.plain_sigmoid(a, c, bias, g, same), strict=True):
            if y is None: assert x is None
            else: assert_close(x, y, **NEAR)

def test_what_the_kernels_take():
    good = rows(4, 8, "a")
    assert fused.fusable(good)
    assert not fused.fusable(rows(4, 7, "a")) and not fused.fusable(good.T) and not fused.fusable(rows(5, 12, "a")[:, :8])

def test_the_logarithm_keeps_its_digits():
    "At a bias of -10 a sum of small terms is right to six digits."
    a = torch.zeros(32, 16, device=DEVICE, dtype=DTYPE)
    value, *_ = fused.tile_sigmoid(a, a, torch.tensor(-10., device=DEVICE), None, False, None)
    assert_close(value.double().cpu(), 32*torch.tensor(-10.).double().exp().log1p().expand(32), rtol=1e-6, atol=0)

SOFTMAX = [losses.nt_xent, losses.clip_loss, losses.info_nce, losses.decoupled_info_nce]
def one_by_one(*args, **kw): return losses.sigmoid_loss(*args, -3., reduction="none", **kw).sum()

@pytest.mark.parametrize("loss", [*SOFTMAX, losses.sigmoid_loss, one_by_one])
def test_losses_through_the_kernels(loss, monkeypatch):
    "Value and gradient of views and temperature with tiles, blocks and overhangs, against the stream in float32."
    if not CUDA: # the interpreter has no products in bfloat16
        half = losses.half_statistics
        monkeypatch.setattr(losses, "half_statistics", lambda z1, z2, T, candidates: half(z1, z2, T, candidates, torch.float32, 24))
    def parts(**kw):
        z = [rows(70, 16, "z", v).float().requires_grad_() for v in (1, 2)]
        T = torch.tensor(.3, device=DEVICE, requires_grad=True)
        v = loss(*z, T, **kw)
        return v.detach(), *torch.autograd.grad(v, (*z, T))
    rounded = CUDA or loss in SOFTMAX # the sigmoid loss has no other half than bfloat16
    found = parts(**(dict(products="bf16") if rounded else dict(form="stream")))
    monkeypatch.setattr(fused, "INTERPRET", False)
    for x, y in zip(found, parts(form="matrix"), strict=True): assert ((x-y).norm() <= (.02 if CUDA else 1e-5)*y.norm())
