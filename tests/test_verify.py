"What `verify` finds: broken chains, changed rows, foreign rows, circles; and what a merge of ledgers keeps."
import shutil, subprocess, sys

import pytest

from contrastive_nb import runs, verdicts, verify as V
from contrastive_nb.cli import main
from contrastive_nb.ledger import LedgerError, digest, read_rows, replace_rows, told

@pytest.fixture
def ledgers(tmp_path):
    "A copy of the package's ledgers."
    return shutil.copytree(V.FOLDER, tmp_path/"ledger")

def problems(folder): return V.report(folder)[1]

def test_the_package_verifies_without_torch():
    code = "import sys; from contrastive_nb.cli import main; s = main(['verify']); assert 'torch' not in sys.modules; sys.exit(s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing is broken, nothing is stale" in done.stdout, done.stdout + done.stderr

def test_a_cut_line_is_named_and_the_other_ledgers_are_still_read(ledgers, capsys):
    runs_file = ledgers/"runs.jsonl"
    runs_file.write_text(runs_file.read_text()[:-40])
    assert V.verify(folder=str(ledgers)) == 1
    said = capsys.readouterr().out
    assert "runs.jsonl, line" in said and "claims: fast" in said
    assert runs_file.read_text().count("\n") == 0 or runs_file.stat().st_size # nothing was rewritten

def test_a_changed_number_makes_the_claims_that_read_it_stale(ledgers):
    row = next(r for r in read_rows(ledgers/"claims.jsonl") if r.get("reads"))
    kind, keys = next(iter(row["reads"].items()))
    key = next(iter(keys))
    old = next(r for r in read_rows(ledgers/"runs.jsonl") if (r["kind"], r["key"]) == (kind, key))
    replace_rows(ledgers/"runs.jsonl", [old | dict(seconds=old["seconds"] + 1)], key=("kind", "key"))
    assert any(row["claim"] in p and p.startswith("stale") for p in problems(ledgers))

def test_rows_beyond_those_that_a_claim_reads_change_nothing(ledgers):
    before = problems(ledgers)
    extra = next(r for r in read_rows(ledgers/"runs.jsonl") if r["kind"] == "recovery")
    replace_rows(ledgers/"runs.jsonl", [told(extra) | dict(key="f"*12)], key=("kind", "key"))
    assert problems(ledgers) == before

def test_a_changed_settler_makes_its_claim_stale(ledgers, monkeypatch):
    present = V.settler_digests()
    monkeypatch.setattr(V, "settler_digests", lambda: present | {("spec-rows", "fast"): "0"*12})
    assert any("spec-rows (fast)" in p for p in problems(ledgers))

def test_rows_of_an_unknown_kind_and_of_other_data_are_named(ledgers):
    replace_rows(ledgers/"runs.jsonl", [dict(kind="wishful", key="a"), dict(kind="train", key="b", data=dict(name="cifar10", digest="0"*16))], key=("kind", "key"))
    said = "\n".join(problems(ledgers))
    assert "1 rows of the unknown kind 'wishful'" in said and "1 rows on cifar10 have the fingerprint 0000000000000000" in said

def test_claims_without_rows_and_rows_without_claims_are_named(ledgers):
    rows = read_rows(ledgers/"claims.jsonl")
    (ledgers/"claims.jsonl").unlink()
    replace_rows(ledgers/"claims.jsonl", [told(r) for r in rows[1:]] + [told(rows[0]) | dict(claim="no-such-claim")])
    said = "\n".join(problems(ledgers))
    assert f"{rows[0]['claim']} ({rows[0]['tier']}) has no recorded row" in said and "no-such-claim" in said

def test_a_circle_among_claims_is_one_clear_error():
    with pytest.raises(ValueError, match="claim a rests on itself through b"): verdicts.check_grounds(dict(a=dict(rests_on=["b"]), b=dict(rests_on=["a"])))

def test_a_merge_refuses_contradictions_and_writes_nothing(ledgers, tmp_path):
    other = shutil.copytree(ledgers, tmp_path/"other")
    row = told(read_rows(other/"runs.jsonl")[0])
    replace_rows(other/"runs.jsonl", [row | dict(seconds=1., time="2999-01-01")], key=("kind", "key"))
    replace_rows(other/"claims.jsonl", [dict(claim="x", tier="fast", verdict="holds")], key=("claim", "tier"))
    before = {p.name: p.read_bytes() for p in ledgers.iterdir()}
    with pytest.raises(LedgerError, match="contradict each other"): V.ledger_command("merge", str(other), folder=str(ledgers))
    assert {p.name: p.read_bytes() for p in ledgers.iterdir()} == before
    assert V.ledger_command("merge", str(other), later=True, folder=str(ledgers)) == 0
    merged = read_rows(ledgers/"runs.jsonl")
    assert len(merged) == len(read_rows(other/"runs.jsonl")) and merged[-1]["time"] == "2999-01-01"

def test_bad_arguments_end_in_one_line(tmp_path, capsys):
    assert main(["verify", "--folder", str(tmp_path/"none")]) == 1 and "no folder" in capsys.readouterr().err
    assert main(["verify", "--replay", "few"]) == 1 and "not 'few'" in capsys.readouterr().err
    assert main(["ledger", "merge", str(tmp_path)]) == 1 and "no ledger in" in capsys.readouterr().err
    assert main(["ledger", "mix", str(tmp_path)]) == 1 and "choose merge" in capsys.readouterr().err

def test_a_row_that_the_code_repeats_is_moved_and_one_it_does_not_stays_stale(tmp_path, monkeypatch):
    monkeypatch.setitem(runs.REPLAYS, "toy", (lambda row, root: {"end": row["config"]["x"]**2}, dict(end=1e-6)))
    good = dict(kind="toy", key="a", config=dict(x=3.), code="0"*12, replay=dict(end=9.))
    bad = dict(kind="toy", key="b", config=dict(x=3.), code="0"*12, replay=dict(end=9.1))
    assert runs.move(good, path=tmp_path/"moved.jsonl") == 0 and runs.move(bad, path=tmp_path/"moved.jsonl") > 1
    moved = read_rows(tmp_path/"moved.jsonl")
    assert [m["key"] for m in moved] == ["a"] and moved[0]["row"] == digest(good)[:12]
    assert runs.standing(good, None, moved) == "moved" and runs.standing(bad, None, moved) == "stale"

def test_one_replay_of_every_kind(capsys):
    V.load_replays()
    rows = read_rows(V.FOLDER/"runs.jsonl")
    standings = V.run_standings(rows, read_rows(V.FOLDER/"moved.jsonl"))
    assert not V.replay_rows([r for r in V.chosen_rows(rows, standings) if standings[r["kind"], r["key"]] in ("fresh", "moved")], standings)

def test_a_merge_tells_rows_of_one_loss_in_two_dimensions_apart(tmp_path):
    here, there = tmp_path/"here", tmp_path/"there"
    row = dict(what="gpu", loss="nt_xent", n=4096, contender="contrastive_nb", precision="bf16", dim=128, milliseconds=1.)
    replace_rows(here/"benchmarks.jsonl", [row])
    replace_rows(there/"benchmarks.jsonl", [row, row | dict(dim=512, milliseconds=2.)])
    V.ledger_command("merge", str(there), folder=str(here))
    assert [r["dim"] for r in read_rows(here/"benchmarks.jsonl")] == [128, 512]
