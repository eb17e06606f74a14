"One rank of the distributed tests: `contrastive-nb train` on the digits, and inside its process group (a process has only one) the other checks. Writes rank0.pt and rank1.pt to the folder it is given."
import os, shutil, sys, time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from contrastive_nb import probes, training
from contrastive_nb.cli import main
from contrastive_nb.images import digits
from contrastive_nb.training import PRESETS, batch_loss, batch_views, share, start, train, update

SMALL = replace(PRESETS["digits"], width=8, batch=128, epochs=2) # 20 steps
STEPS = {"nt_xent": SMALL, "adnce": replace(SMALL, loss="adnce", loss_options="mu=.7 sigma=1"), "negatives": replace(SMALL, loss="info_nce", negatives=20, false_negatives=.1),
    "vit": replace(SMALL, encoder="vit", width=64, batch=32)}
COMMAND = ["train", "--data", "digits", "--device", "cpu", "--batch", "128", "--epochs", "1"]

def step(config, data):
    "Loss, gradients and buffers after one step, with the network in float64 (the loss is in float32, always)."
    state = start(config, data)
    state.encoder.double().train()
    value = update(state, share(batch_views(config, data, 0)).double(), batch_loss(config, data, 0))
    return dict(loss=value), {k: p.grad for k, p in state.encoder.named_parameters()}, dict(state.encoder.named_buffers())

class Killed(Exception): pass

def killed(config, data, out, after):
    "Train for some steps with a checkpoint after each, then stop as a kill would."
    genuine, count = training.update, iter(range(10**9))
    def stop(*a):
        if next(count) == after: raise Killed
        return genuine(*a)
    training.update = stop
    try: train(config, data, out, device="cpu", save_every=0, progress=False)
    except Killed: pass
    finally: training.update = genuine

def message(f):
    try: return f() and ""
    except ValueError as e: return f"{type(e).__name__}: {e}"

def checks(folder, rank):
    data, result, go = digits(), {}, lambda out=None: train(SMALL, data, out, device="cpu", progress=False)
    result["steps"] = {k: step(c, data) for k, c in STEPS.items()}
    result["odd"] = message(lambda: start(replace(SMALL, batch=129), data))
    killed(SMALL, data, folder/"two", 7) # by two processes; "one" is by one, made by the test
    if rank == 0: shutil.copytree(folder/"two", folder/"two to one")
    dist.barrier()
    result["elsewhere"] = message(lambda: go(folder/("two" if rank == 0 else "empty")))
    return result | {k: dict(curve=r.curve, here=r.steps_here, weights=r.encoder.state_dict()) for k, r in (("whole", go()), ("two", go(folder/"two")), ("one", go(folder/"one")))}

def run(folder):
    result, calls, tqdm = {}, {"saves": 0, "rows": 0, "bars": 0}, training.tqdm
    def counted(module, name, call, wait):
        genuine = getattr(module, name)
        def count(*a, **kw):
            time.sleep(wait) # whoever does not wait for rank 0 is found out
            calls[call] += 1
            return genuine(*a, **kw)
        setattr(module, name, count)
    def bar(*a, disable, **kw):
        calls["bars"] += not disable
        return tqdm(*a, disable=True, **kw)
    def checked(*a, **kw):
        result.update(checks(folder, dist.get_rank()))
        counted(training, "save_checkpoint", "saves", .5)
        counted(probes, "replace_rows", "rows", .5)
        training.tqdm = bar
        run = train(*a, **kw)
        result.update(command=run.curve, checkpoint_at_the_end=run.path.exists())
        return run
    probes.train = checked
    status = main([*COMMAND, "--out", str(folder/"runs")])
    torch.save(result | dict(calls=calls, row_at_the_end=(folder/"runs"/"runs.jsonl").exists()), folder/f"rank{os.environ['RANK']}.pt")
    return status

if __name__ == "__main__": sys.exit(run(Path(sys.argv[1])))
