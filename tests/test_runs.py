"Configurations over a space of inputs; rows, rehearsals and what they notice."
import os, subprocess, sys
from dataclasses import dataclass

from hypothesis import given, strategies as st

from contrastive_nb.ledger import digest
from contrastive_nb.runs import Config

@dataclass(frozen=True)
class Small(Config):
    rate:float = .1
    name:str = "x"
    sizes:tuple = (1, 2)

def test_keys_are_stable_over_processes():
    code = "from tests.test_runs import Small; print(Small(rate=1, sizes=(3,)).key)"
    keys = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": s}).stdout.strip() for s in "12"}
    assert keys == {Small(rate=1., sizes=(3,)).key}

@given(st.floats(0, 1), st.floats(0, 1), st.text(max_size=3), st.text(max_size=3))
def test_keys_differ_iff_fields_differ(r1, r2, n1, n2):
    assert (Small(r1, n1).key == Small(r2, n2).key) == (digest([r1, n1]) == digest([r2, n2]))
