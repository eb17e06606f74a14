"Random streams over a space of inputs."
import torch
from hypothesis import given, strategies as st

from contrastive_nb.core import stream

@given(st.integers(0, 2**31), st.text(max_size=5), st.integers(0, 100))
def test_streams_depend_on_every_name(seed, name, step):
    first = lambda *a: torch.rand(4, generator=stream(*a)).tolist()
    assert first(seed, name, step) == first(seed, name, step)
    assert first(seed, name, step) != first(seed, name, step+1) and first(seed, name, step) != first(seed+1, name, step)
