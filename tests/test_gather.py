"Two processes over gloo: which combination of loss and gather gives the single-process gradient (the table of the losses notebook)."
import json, subprocess, sys
from pathlib import Path
import pytest, torch
from torch.testing import assert_close
from contrastive_nb.losses import gather, info_nce, nt_xent

here = Path(__file__).parent
sys.path.insert(0, str(here))
import gather_worker as w

def spawn(world, tmp):
    run = [subprocess.Popen([sys.executable, str(here/"gather_worker.py"), str(r), str(world), str(tmp/"store"), str(tmp/"out.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(world)]
    try: outs = [p.communicate(timeout=120) for p in run]
    finally:
        for p in run: p.kill()
    assert all(p.returncode == 0 for p in run), "\n".join(err[-2000:] for _,err in outs)
    return json.loads((tmp/"out.json").read_text())

@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 3])
def test_gradient_equals_one_process(world, tmp_path):
    got = spawn(world, tmp_path)
    model = w.encoder()
    x,y = w.rows(8*world)
    want = {}
    for name,loss in (("global", nt_xent), ("local", info_nce)):
        model.zero_grad()
        loss(model(x), model(y), .3).backward()
        want[name] = w.flat(model)
    error = {k: ((torch.tensor(g, dtype=torch.float64)-want[k.split(",")[0]]).norm()/want[k.split(",")[0]].norm()).item() for k,g in got.items() if "," in k}
    right = {k for k in error if "differentiable" in k}
    assert len(right) == 3 and all(error[k] < 1e-12 for k in right), error
    assert all(error[k] > .02 for k in error.keys()-right), error
    for k in ("global, own block matrix", "global, own block stream"): assert_close(torch.tensor(got[k], dtype=torch.float64)*world, want["global"]) # direction right, size 1/world
    ratio = torch.tensor(got["local, own block auto"], dtype=torch.float64)
    assert torch.nn.functional.cosine_similarity(ratio, want["local"], dim=0) < .999
    assert got["order"] == [float(2*i+10*r) for r in range(world) for i in range(3)]
    assert "every rank must hold rows of one shape" in got["uneven"] and "(2, 2)" in got["uneven"]

def test_alone():
    z = torch.ones(2, 3)
    assert gather(z) is z
