"Two processes over gloo, started by torchrun, do what one process does: loss, gradients, statistics, curve, checkpoints."
import os, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

here = Path(__file__).parent
sys.path.insert(0, str(here))
import distributed_worker as w
from contrastive_nb.ledger import read_rows
from contrastive_nb.images import digits
from contrastive_nb.training import PRESETS, read_checkpoint, share, train

pytestmark = pytest.mark.processes
CURVE = dict(atol=1e-3, rtol=0) # AdamW divides by the gradient's size, so rounding grows from step to step

@pytest.fixture(scope="module")
def data(): return digits()

@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    "What the two ranks leave behind."
    folder = tmp_path_factory.mktemp("ranks")
    w.killed(w.SMALL, data, folder/"one", 7)
    ranks = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(here/"distributed_worker.py"), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try: said, errors = ranks.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        ranks.terminate() # torchrun ends its ranks, too
        said, errors = ranks.communicate()
    assert ranks.returncode == 0, said + errors[-6000:]
    (folder/"stdout").write_text(said)
    return folder

@pytest.fixture(scope="module")
def ranks(folder): return [torch.load(folder/f"rank{r}.pt") for r in (0, 1)]

@pytest.fixture(scope="module")
def alone(data): return train(w.SMALL, data, device="cpu", progress=False)

@pytest.mark.parametrize("name", w.STEPS)
def test_one_step_is_that_of_one_process(ranks, data, name):
    "Loss, the gradient of every parameter and the statistics of batch normalisation, on both ranks."
    loss, gradients, buffers = w.step(w.STEPS[name], data)
    size = max(g.norm() for g in gradients.values())
    for rank in ranks:
        assert_close(rank["steps"][name][0], loss, rtol=1e-6, atol=0)
        assert_close(rank["steps"][name][1], gradients, rtol=1e-6, atol=1e-9*size.item()) # the gradient of a bias before a normalisation is 0
        assert_close(rank["steps"][name][2], buffers, rtol=1e-6, atol=0)
    assert size > .1 and len(buffers) >= 3

def test_the_command_gives_one_curve_one_row_one_checkpoint(ranks, folder, data):
    config = replace(PRESETS["digits"], batch=128, epochs=1.)
    assert_close(ranks[0]["command"], train(config, data, device="cpu", progress=False).curve, **CURVE)
    assert torch.equal(ranks[0]["command"], ranks[1]["command"])
    row, = read_rows(folder/"runs"/"runs.jsonl")
    assert row["key"] == config.key and row["processes"] == dict(ranks=2, machines=1, backend="gloo") and row["steps"] == row["steps_here"] == 10
    assert [p.relative_to(folder/"runs").parts[0] for p in (folder/"runs").glob("*/*")] == [config.key]
    said = (folder/"stdout").read_text()
    assert said.count(f"run {config.key}: nt_xent") == said.count("linear probe") == 1
    assert [r["calls"] for r in ranks] == [dict(saves=1, rows=1, bars=1), dict(saves=0, rows=0, bars=0)]
    assert all(r["checkpoint_at_the_end"] and r["row_at_the_end"] for r in ranks) # nobody runs ahead

def test_resumed_by_two_equals_uninterrupted(ranks):
    for r in ranks:
        assert r["two"]["here"] == 13 and torch.equal(r["two"]["curve"], r["whole"]["curve"])
        assert all(torch.equal(v, ranks[0]["whole"]["weights"][k]) for k, v in r["two"]["weights"].items())

def test_one_goes_on_where_two_stopped_and_the_reverse(ranks, folder, data, alone):
    resumed = train(w.SMALL, data, folder/"two to one", device="cpu", progress=False)
    assert resumed.steps_here == ranks[0]["one"]["here"] == 13
    assert torch.equal(resumed.curve[:7], ranks[0]["whole"]["curve"][:7]) and torch.equal(ranks[0]["one"]["curve"][:7], alone.curve[:7])
    for curve in (resumed.curve, ranks[0]["one"]["curve"], ranks[0]["whole"]["curve"]): assert_close(curve, alone.curve, **CURVE)
    assert read_checkpoint(folder/"one"/w.SMALL.key/"checkpoint.safetensors")[0]["step"] == "20"

def test_a_batch_that_cannot_be_divided(ranks):
    for r in ranks: assert r["odd"] == "ValueError: a batch of 129 images cannot be divided equally among 2 processes"

def test_ranks_that_start_differently_are_refused(ranks):
    for r in ranks: assert r["elsewhere"].startswith("TrainingError: the step of the ranks differ: [7, 0]; the weights of the ranks differ: [")

def test_alone(data):
    assert share(data.train_x) is data.train_x
