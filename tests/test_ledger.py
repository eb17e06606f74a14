"The ledger under two writers, under a kill, and under every single-character edit."
import os, random, signal, subprocess, sys, time

import pytest
import torch
from hypothesis import given, strategies as st

from contrastive_nb.ledger import LedgerError, canonical, read_rows, replace_rows, write_atomic

ROWS = """
import sys
from contrastive_nb.ledger import replace_rows
path, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for i in range(25): replace_rows(path, [dict(writer=name, i=i)])
"""

FILES = """
import sys
from contrastive_nb.ledger import write_atomic
print("ready", flush=True)
while True:
    for letter in "ab": write_atomic(sys.argv[1], letter*20_000_000)
"""

def start(code, *args): return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

@pytest.mark.processes
def test_two_writers_at_once_lose_nothing(tmp_path):
    ledger = tmp_path/"ledger.jsonl"
    writers = [start(ROWS, ledger, name) for name in "ab"]
    assert [w.stdout.readline() for w in writers] == ["ready\n"]*2
    for w in writers: w.stdin.write("go\n"); w.stdin.flush()
    assert [w.wait() for w in writers] == [0, 0]
    assert sorted((r["writer"], r["i"]) for r in read_rows(ledger)) == [(w, i) for w in "ab" for i in range(25)]

@pytest.mark.processes
def test_killed_writers_leave_whole_files(tmp_path):
    path = tmp_path/"file"
    for _ in range(3):
        writer = start(FILES, path)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(random.uniform(.05, .4))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        if path.exists():
            text = path.read_text()
            assert len(text) == 20_000_000 and text.count(text[0]) == len(text)

def test_a_kill_inside_the_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_atomic(tmp_path/"file", "old")
    def die(*_): raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt): write_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_atomic(tmp_path/"file", "old")
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"): write_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

rows = st.dictionaries(st.text(min_size=1).filter(lambda k: k not in ("hash", "prev")),
    st.none() | st.booleans() | st.integers(-10**12, 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.text(), min_size=1)

@given(st.lists(rows, min_size=1, max_size=4), st.data())
def test_every_edit_is_found(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("ledger")/"ledger.jsonl"
    replace_rows(path, content)
    before = read_rows(path)
    assert [{k: v for k, v in r.items() if k not in ("hash", "prev")} for r in before] == content
    text = path.read_text(encoding="utf-8")
    at = data.draw(st.integers(0, len(text)-1))
    new = data.draw(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")).filter(lambda c: c != text[at]))
    path.write_text(text[:at] + new + text[at+1:], encoding="utf-8")
    try: after = read_rows(path)
    except LedgerError: return
    assert canonical(after) == canonical(before) # "1.0" for "1e0", a space for a newline: the same numbers

@given(st.text(min_size=1, max_size=5, alphabet="abc{}[]\"0"))
def test_a_cut_or_foreign_line_is_named(tmp_path_factory, tail):
    path = tmp_path_factory.mktemp("ledger")/"ledger.jsonl"
    replace_rows(path, [dict(a=1)])
    path.write_text(path.read_text() + tail)
    with pytest.raises(LedgerError, match="line 2"): read_rows(path)

@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_numbers_that_are_none_are_refused(tmp_path, value):
    with pytest.raises(ValueError): replace_rows(tmp_path/"ledger.jsonl", [dict(loss=value)])
    assert not (tmp_path/"ledger.jsonl").exists()

def test_scalars_are_read_out():
    assert canonical(dict(a=torch.tensor(2), b=torch.tensor(.5))) == '{"a":2,"b":0.5}'
