"""A sweep gives the same rows wherever it runs, runs nothing twice, and loses nothing that is finished."""
import os, signal, subprocess, sys, time
from dataclasses import replace

import pytest

from contrastive_nb.ledger import read_rows, replace_rows
from contrastive_nb.runs import missing_runs, run_rows
from contrastive_nb.sweeps import run_apart, sweep
from contrastive_nb.training import PRESETS

QUICK = [replace(PRESETS["digits"], epochs=1., width=8, seed=s) for s in range(3)]

def numbers(rows): return [{k: r[k] for k in ("key", "kind", "loss", "trained", "untrained", "threads")} for r in rows]

@pytest.fixture(scope="module")
def sequential(tmp_path_factory): return sweep("t", QUICK, [tmp_path_factory.mktemp("one")/"runs.jsonl"], backend="threading", device="cpu", progress=False)

def test_rows_come_in_order_and_say_what_they_are(sequential):
    assert [r["key"] for r in sequential] == [c.key for c in QUICK] and [r["config"]["seed"] for r in sequential] == [0, 1, 2]
    assert len({r["loss"] for r in sequential}) == 3 and all(0 < r["trained"]["linear"] < 1 for r in sequential)

def test_processes_give_the_same_numbers(sequential, tmp_path):
    assert numbers(sweep("t", QUICK, [tmp_path/"runs.jsonl"], workers=2, device="cpu", progress=False)) == numbers(sequential)

def test_a_dask_cluster_gives_the_same_numbers(sequential, tmp_path):
    distributed = pytest.importorskip("dask.distributed", reason="Dask is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, distributed.Client(cluster):
        assert numbers(sweep("t", QUICK, [tmp_path/"runs.jsonl"], workers=2, backend="dask", device="cpu", progress=False)) == numbers(sequential)

def test_nothing_runs_twice_and_ledgers_are_kept_in_step(sequential, tmp_path, monkeypatch):
    one, two = tmp_path/"one.jsonl", tmp_path/"two.jsonl"
    replace_rows(one, sequential[:2], key=("kind", "key"))
    monkeypatch.setattr("contrastive_nb.sweeps.run_apart", lambda config, kind, *rest: dict(kind=kind, key=config.key, fresh=True))
    rows = sweep("t", QUICK, [one, two], backend="threading", progress=False)
    assert [r.get("fresh", False) for r in rows] == [False, False, True]
    assert sorted(r["key"] for r in read_rows(one)) == sorted(r["key"] for r in read_rows(two)) == sorted(c.key for c in QUICK)
    assert missing_runs("other", [QUICK[0].key], [one]) == [QUICK[0].key] # another kind is another run

def test_what_was_finished_before_an_error_is_kept(tmp_path):
    bad = replace(QUICK[0], batch=5000)
    with pytest.raises(ValueError, match="a batch of 5000 does not fit in 1348 training images"):
        sweep("t", [QUICK[1], bad], [tmp_path/"runs.jsonl"], backend="threading", device="cpu", progress=False)
    assert [r["key"] for r in run_rows("t", tmp_path/"runs.jsonl")] == [QUICK[1].key]

def test_an_unknown_backend_is_named(tmp_path):
    with pytest.raises(ValueError, match="slurm"): sweep("t", QUICK, [tmp_path/"runs.jsonl"], backend="slurm", progress=False)

def test_the_untrained_encoder_depends_on_the_seed_and_not_on_the_loss(sequential):
    other = run_apart(replace(QUICK[1], temperature=.1), "t", device="cpu")
    assert other["untrained"] == sequential[1]["untrained"] != sequential[0]["untrained"] and other["loss"] != sequential[1]["loss"]

def test_a_killed_sweep_goes_on(tmp_path, sequential):
    code = f"""if __name__ == "__main__":
    from dataclasses import replace
    from contrastive_nb.sweeps import sweep
    from contrastive_nb.training import PRESETS
    sweep("t", [replace(PRESETS["digits"], epochs=1., width=8, seed=s) for s in range(3)], [{str(tmp_path/"runs.jsonl")!r}], device="cpu", progress=False)"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not run_rows("t", tmp_path/"runs.jsonl") and process.poll() is None and time.monotonic() < end: time.sleep(.02)
    finally: os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = run_rows("t", tmp_path/"runs.jsonl")
    assert 1 <= len(before) < 3
    rows = sweep("t", QUICK, [tmp_path/"runs.jsonl"], device="cpu", progress=False)
    assert numbers(rows) == numbers(sequential) and rows[:len(before)] == before # the finished rows were not made again
