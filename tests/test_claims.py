"Every claim is settled or says why not, in its chapter and in the committed ledger; the commands answer."
import json, re, subprocess, sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from contrastive_nb import __version__, claims as C
from contrastive_nb.cli import COMMANDS, main
from contrastive_nb.ledger import LedgerError, read_rows
from contrastive_nb.verdicts import SETTLERS, TIERS, ClaimError, claims
from contrastive_nb.verify import settler_digests

ROOT = Path(__file__).resolve().parent.parent

def test_claim_list_is_well_formed():
    for key, c in claims().items():
        assert {"paper", "kind", "says", "prints", "tiers", "chapter"} <= set(c) <= {"paper", "kind", "source", "says", "prints", "rests_on", "tiers", "chapter", "pending"}, key
        assert c["paper"] in set("ABCDE") and c["kind"] in {"theorem", "identity", "counterexample", "table", "erratum", "extension"}, key
        assert c["tiers"] and c["tiers"] == [t for t in TIERS if t in c["tiers"]] and set(c.get("pending", {})) <= set(c["tiers"]), key
        assert c["says"].endswith(".") and c["prints"].strip() == c["prints"] != "" and (c["prints"] == "no number" or c["prints"].endswith(".")), key

def test_claims_rest_on_known_claims_without_a_circle():
    rests = {key: c.get("rests_on", []) for key, c in claims().items()}
    for key, on in rests.items(): assert len(set(on)) == len(on) and set(on) <= set(rests), key
    TopologicalSorter(rests).prepare() # raises CycleError, which names the circle

def test_every_claim_is_settled_or_pending(): assert C.unsettled() == {}

def test_the_committed_ledger_states_what_the_pages_state():
    C.load_chapters()
    for row in read_rows(C.CLAIM_ROWS):
        key, tier = row["claim"], row["tier"]
        if row["verdict"] == "not-run": assert row["reason"] and (key, tier) not in SETTLERS, f"{key} ({tier}) is settled but not recorded"
        else: assert row["verdict"] == SETTLERS[key, tier][1], f"{key} ({tier}): the ledger says {row['verdict']}"

def test_every_settling_function_is_shown_in_its_chapter():
    C.load_chapters()
    for key, tier in SETTLERS:
        chapter = ROOT/"nbs"/f"{claims()[key]['chapter']}.ipynb"
        code = "\n".join("".join(c["source"]) for c in json.loads(chapter.read_text())["cells"] if c["cell_type"] == "code")
        assert re.search(rf'settle\("{key}"' if tier == "fast" else rf'"{key}"', code), f"{chapter.stem} does not show {key} ({tier})"

def test_a_failing_claim_is_an_error_and_is_not_recorded(tmp_path, monkeypatch, capsys):
    C.load_chapters()
    f, _ = SETTLERS["spec-rows", "fast"]
    monkeypatch.setitem(SETTLERS, ("spec-rows", "fast"), (f, "refuted"))
    monkeypatch.setattr(C, "CLAIM_ROWS", tmp_path/"claims.jsonl")
    monkeypatch.setattr(C, "require_traceable", lambda what: None)
    assert C.reproduce(only="spec-rows", out=str(tmp_path/"report")) == 1
    assert "the page states 'refuted', the checks say 'holds'" in capsys.readouterr().out
    with pytest.raises(ClaimError, match="not recorded, since these fail: spec-rows"): C.reproduce(only="spec-rows", out=str(tmp_path/"report"), record=True)
    assert not C.CLAIM_ROWS.exists()

def test_a_killed_slow_run_keeps_its_rows(tmp_path, monkeypatch):
    C.load_chapters()
    calls, present = [], settler_digests()
    def run(key, tier):
        calls.append(key)
        if len(calls) == 3: raise KeyboardInterrupt
        return C.pending_row("div-table1", "full") | dict(claim=key, tier=tier, verdict="holds", checks=[dict(name="x", measured=1., relation="=", expected=1., tolerance=0., role="claim", passed=True)],
            code=present[key, tier], reads={}, versions=C.provenance()["versions"])
    monkeypatch.setattr(C, "run_one", run)
    slow = [k for k, c in claims().items() if k.startswith("clus-") and "slow" in c["tiers"]]
    for key in slow: monkeypatch.setitem(SETTLERS, (key, "slow"), (run, "holds"))
    with pytest.raises(KeyboardInterrupt): C.reproduce("slow", "clus-*", str(tmp_path))
    assert C.reproduce("slow", "clus-*", str(tmp_path)) == 0
    assert sorted(calls) == sorted(slow + [slow[2]]) # only the interrupted claim ran twice

@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as done: main([command, "-h"])
    assert done.value.code == 0 and f"usage: contrastive-nb {command}" in capsys.readouterr().out

def test_console_script():
    done = subprocess.run([Path(sys.executable).parent/"contrastive-nb", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"contrastive-nb {__version__}\n"

def test_bad_arguments_end_in_one_line(capsys):
    assert main(["brew"]) == 2 and "unknown command 'brew'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no claim matches 'nope'"): main(["reproduce", "--only", "nope"])
    with pytest.raises(SystemExit, match="unknown tier 'quick'"): main(["reproduce", "--tier", "quick"])

def test_a_row_of_uncommitted_code_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(C, "CLAIM_ROWS", tmp_path/"claims.jsonl")
    monkeypatch.setattr("contrastive_nb.ledger.changed", lambda: ["contrastive_nb/losses.py"])
    with pytest.raises(LedgerError, match="1 files of the package differ from the commit .contrastive_nb/losses.py.: commit first"):
        C.reproduce(only="spec-rows", out=str(tmp_path/"report"), record=True)
    assert not C.CLAIM_ROWS.exists() and not (tmp_path/"report").exists()
