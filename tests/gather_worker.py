"One rank of the gather test: run as `python -m gather_worker RANK WORLD FILE OUT` (a function of a test module cannot be spawned safely)."
import json, sys
import torch
import torch.distributed as dist
from contrastive_nb.losses import gather, info_nce, nt_xent

def rows(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=g, dtype=torch.float64)
    return x, x+.5*torch.randn(n, 5, generator=g, dtype=torch.float64)

def encoder():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4)).double()

def own_block(z):
    "The usual gather: copies of the others, a gradient for the own rows only."
    blocks = [torch.empty_like(z) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, z.detach())
    blocks[dist.get_rank()] = z
    return torch.cat(blocks)

def no_gradient(z):
    blocks = [torch.empty_like(z) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, z.detach())
    return torch.cat(blocks)

def everywhere(z1, z2, gather, form): return nt_xent(gather(z1), gather(z2), .3, form=form)

def local(z1, z2, gather, form):
    "Own anchors against the other rows of all second views: InfoNCE with explicit negatives, anchor by anchor."
    n,r,all2 = len(z1),dist.get_rank(),gather(z2)
    other = torch.stack([torch.cat([all2[:r*n+i], all2[r*n+i+1:]]) for i in range(n)])
    return info_nce(z1, z2 if gather is no_gradient else all2[r*n:r*n+n], .3, other)

def flat(model): return torch.cat([p.grad.reshape(-1) for p in model.parameters()])

def run(loss, gather, form="auto"):
    "Parameter gradient as DDP leaves it, with this rank's share of the batch."
    r,world = dist.get_rank(),dist.get_world_size()
    model = encoder()
    x,y = (v.chunk(world)[r] for v in rows(8*world))
    loss(model(x), model(y), gather, form).backward()
    g = flat(model)
    dist.all_reduce(g)
    return (g/world).tolist()

def main(rank, world, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    result = {f"{name}, {how}": run(loss, g, form) for name,loss,forms in (("global", everywhere, ("matrix", "stream")), ("local", local, ("auto",)))
              for form in forms for how,g in ((f"differentiable {form}", gather), (f"own block {form}", own_block), (f"none {form}", no_gradient)) if not (name == "global" and g is no_gradient)}
    z = torch.arange(6.).view(3, 2)+10*rank
    result["order"] = gather(z)[:,0].tolist()
    try: gather(z[:3-rank]); result["uneven"] = ""
    except ValueError as e: result["uneven"] = str(e)
    if rank == 0: open(out, "w").write(json.dumps(result))
    dist.barrier(); dist.destroy_process_group()

if __name__ == "__main__": main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5])
