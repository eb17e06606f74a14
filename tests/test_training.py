"The loop, its resume after kill -9, checkpoints that cannot be trusted, encoders, and probes of frozen encoders."
import math, os, pickle, signal, subprocess, sys, time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from fastcore.script import anno_parser
from torch import nn
from torch.testing import assert_close

from contrastive_nb import losses, training
from contrastive_nb.ledger import read_rows
from contrastive_nb.core import stream
from contrastive_nb.encoders import ENCODERS, build_encoder, initialise, parameter_count
from contrastive_nb.images import DataError, NoData, Views, digits
from contrastive_nb.probes import extract, linear_accuracy, load_or_digits, probe, probe_command, runs_frame, train_command
from contrastive_nb.training import (FAMILY, PRESETS, CheckpointError, TrainConfig, TrainingError, batch_rows, batch_views, load_encoder, loss_function, read_checkpoint, restore, save_checkpoint,
    schedule, start, steps, train)

SMALL = replace(PRESETS["digits"], width=8, batch=128, epochs=4) # 40 steps

@pytest.fixture(scope="module")
def data(): return digits()

@pytest.fixture(scope="module")
def run(data): return train(SMALL, data, device="cpu", progress=False)

def go(config, data, out=None, **kw): return train(config, data, out, device="cpu", progress=False, **kw)

# ---------------------------------------------------------------- resume

VICTIM = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[2]))
from contrastive_nb import training
from contrastive_nb.images import digits
genuine = training.update
def slowly(*a): time.sleep(.05); return genuine(*a)
training.update = slowly
training.train(training.TrainConfig.from_dict(eval(sys.argv[3])), digits(), sys.argv[1], device="cpu", save_every=0, progress=False)
"""

@pytest.mark.processes
def test_kill_9_and_resume_is_bitwise(tmp_path, data):
    "Curve and weights of a killed and resumed run equal those of an uninterrupted one, bit by bit (one device, one number of threads)."
    config, threads = replace(SMALL, precision="bf16"), torch.get_num_threads()
    path, done = tmp_path/config.key/"checkpoint.safetensors", lambda: int(read_checkpoint(path)[0]["step"]) if path.exists() else 0
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path), str(threads), repr(config.as_dict())], env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    deadline = time.time() + 240
    while time.time() < deadline and victim.poll() is None and done() < 13: time.sleep(.02) # every file that we see is whole
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL and 13 <= (steps := done()) < 40
    resumed, whole = go(config, data, tmp_path), go(config, data)
    assert resumed.steps_here == 40 - steps and torch.equal(resumed.curve, whole.curve)
    assert all(torch.equal(v, whole.encoder.state_dict()[k]) for k, v in resumed.encoder.state_dict().items())

def test_every_step_is_resumable(tmp_path, data, run):
    "Also at the first and the last step of an epoch."
    for stop in (1, 10, 39):
        state = start(SMALL, data)
        for _ in islice(steps(state, data), stop): pass
        save_checkpoint(tmp_path/str(stop)/SMALL.key/"checkpoint.safetensors", state, data)
        resumed = go(SMALL, data, tmp_path/str(stop))
        assert resumed.steps_here == 40 - stop and torch.equal(resumed.curve, run.curve)

def test_a_seed_fixes_the_run_and_the_global_generator_is_left_alone(data, run):
    before = torch.get_rng_state()
    torch.rand(5) # whatever happened before
    again, other = go(SMALL, data), go(replace(SMALL, seed=1), data)
    torch.set_rng_state(before)
    assert torch.equal(again.curve, run.curve) and not torch.equal(other.curve, run.curve)
    first = [start(c, data).encoder.backbone[0].weight for c in (SMALL, SMALL, replace(SMALL, seed=1))]
    assert torch.equal(*first[:2]) and not torch.equal(*first[1:])
    go(SMALL, data)
    assert torch.equal(torch.get_rng_state(), before)

def test_each_epoch_sees_each_image_once(data, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "to_float", lambda x: seen.append(x) or x.float()/255)
    go(replace(SMALL, plain_anchor=True, epochs=2), data)
    images = torch.cat(seen).flatten(1)
    assert len(images) == 2*1280
    for epoch in images.split(1280): assert len(epoch.unique(dim=0)) >= len(data.train_x.flatten(1).unique(dim=0)) - (len(data.train_x) - 1280)
    assert not torch.equal(*images.split(1280))

# ---------------------------------------------------------------- checkpoints

@pytest.fixture
def finished(tmp_path, data): return go(replace(SMALL, epochs=1), data, tmp_path)

@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:50], lambda b: b"", lambda b: b[:-9] + bytes([b[-9] ^ 4]) + b[-8:], lambda b: b"\xff"*len(b)])
def test_damaged_checkpoint(finished, data, tmp_path, damage):
    bad = damage(finished.path.read_bytes())
    finished.path.write_bytes(bad)
    for attempt in (lambda: go(finished.config, data, tmp_path), lambda: load_encoder(finished.path), lambda: probe_command(str(finished.path))):
        with pytest.raises(CheckpointError, match=str(finished.path)): attempt()
    assert finished.path.read_bytes() == bad

class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

@pytest.mark.parametrize("write", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save])
def test_no_pickle_is_executed(tmp_path, data, write):
    (path := tmp_path/SMALL.key/"checkpoint.safetensors").parent.mkdir()
    write(Payload(tmp_path/"made"), path)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"): go(SMALL, data, tmp_path)
    assert not (tmp_path/"made").exists()

def test_checkpoint_of_another_run_or_other_data(finished, data, tmp_path):
    with pytest.raises(CheckpointError, match="belongs to run"): restore(start(SMALL, data), finished.path, data)
    other = replace(data, train_x=data.train_x.flip(0))
    with pytest.raises(CheckpointError, match="was trained on data"): go(finished.config, other, tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"): load_encoder(tmp_path/"nowhere")

def test_checkpoint_gives_the_encoder_back(finished, data):
    encoder, config, meta = load_encoder(finished.path)
    assert config == finished.config and meta["step"] == "10"
    assert torch.equal(extract(encoder, data.test_x), extract(finished.encoder, data.test_x))

def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tmp_path, data, monkeypatch):
    count, genuine = iter(range(1000)), losses.nt_xent
    monkeypatch.setitem(FAMILY, "nt_xent", lambda *z, **kw: genuine(*z, **kw)*(math.nan if next(count) >= 12 else 1))
    with pytest.raises(TrainingError, match="the loss is nan at step 12;"): go(SMALL, data, tmp_path, save_every=0)
    assert read_checkpoint(tmp_path/SMALL.key/"checkpoint.safetensors")[0]["step"] == "12"
    count = iter(range(1000))
    with pytest.raises(TrainingError, match="the loss is nan at step 12"): go(SMALL, data)

# ---------------------------------------------------------------- the loop

@pytest.mark.parametrize("name", FAMILY)
def test_every_loss_of_the_family_trains(name, data):
    options = {"adnce": "mu=.7 sigma=1", "debiased_info_nce": "tau_plus=.05", "hard_negative_info_nce": "tau_plus=.05 beta=.5"}.get(name, "")
    r = go(replace(SMALL, loss=name, loss_options=options), data)
    assert r.curve.isfinite().all() and r.curve[-10:].mean() < r.curve[:5].mean() - .1

def test_loss_is_float32_and_pairs_the_views(data, monkeypatch):
    seen = []
    monkeypatch.setitem(FAMILY, "nt_xent", lambda z1, z2, temperature: seen.append((z1, z2, temperature)) or losses.info_nce(z1, z2, temperature))
    same = replace(SMALL, precision="bf16", epochs=1, views=Views(crop=False, flip=0., jitter=0., grey=0.), temperature=.3)
    go(same, data)
    assert all(a.dtype == b.dtype == torch.float32 and a.shape == (128, 32) and t == .3 for a, b, t in seen)
    assert all(torch.equal(a, b) for a, b, _ in seen) # identical views, identical rows: nothing was shuffled in between

def test_plain_anchor(data):
    plain = data.train_x[batch_rows(SMALL, data, 1)].float()/255
    first, second = batch_views(replace(SMALL, plain_anchor=True), data, 1).chunk(2)
    assert torch.equal(first, plain) and not torch.equal(second, first)
    first, second = batch_views(SMALL, data, 1).chunk(2)
    assert not torch.equal(first, second) and not torch.equal(first, plain)

def test_an_epoch_shows_every_image_at_most_once(data):
    "Ten batches of 128 out of 1348 images; the next epoch has another order."
    seen = torch.cat([batch_rows(SMALL, data, t) for t in range(10)])
    assert len(seen) == 1280 == len(seen.unique()) and 0 <= seen.min() and seen.max() < len(data.train_x)
    assert not torch.equal(batch_rows(SMALL, data, 10), batch_rows(SMALL, data, 0)) and not torch.equal(batch_rows(replace(SMALL, seed=1), data, 0), batch_rows(SMALL, data, 0))

def test_schedule_and_decay(data):
    assert schedule(0, 100, .1) == .1 and schedule(9, 100, .1) == schedule(10, 100, .1) == 1. and 0 < schedule(99, 100, .1) < 1e-3
    assert schedule(0, 1, 0.) == 1. and all(0 < schedule(t, 7, 1.) <= 1 for t in range(7))
    s = start(SMALL, data)
    assert sum(p.numel() for g in s.optimizer.param_groups for p in g["params"]) == parameter_count(s.encoder)
    assert [g["weight_decay"] for g in s.optimizer.param_groups] == [SMALL.weight_decay, 0.] and all(p.ndim > 1 for p in s.optimizer.param_groups[0]["params"])

def test_the_rate_follows_the_schedule(data, monkeypatch):
    rates = []
    genuine = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: rates.append({g["lr"] for g in self.param_groups}) or genuine(self, *a))
    go(SMALL, data)
    assert rates == [{SMALL.learning_rate*schedule(t, 40, SMALL.warmup)} for t in range(40)]

@pytest.mark.parametrize("kw, message", [(dict(batch=0), "batch must be positive"), (dict(epochs=-1), "epochs must be positive"), (dict(temperature=0.), "temperature must be positive"),
    (dict(precision="fp16"), "no precision 'fp16'; there are bf16, fp32")])
def test_bad_configuration(kw, message):
    with pytest.raises(ValueError, match=message): TrainConfig(**kw)

def test_bad_names(data):
    with pytest.raises(ValueError, match="no loss 'simclr'; there are nt_xent, info_nce, clip_loss, adnce"): go(replace(SMALL, loss="simclr"), data)
    with pytest.raises(ValueError, match="no encoder 'vgg'; there are convnet, mlp"): go(replace(SMALL, encoder="vgg"), data)
    with pytest.raises(ValueError, match="a batch of 5000 does not fit in 1348 training images"): go(replace(SMALL, batch=5000), data)
    with pytest.raises(ValueError, match="'name=number' separated by spaces, not 'mu:1'"): loss_function("adnce", options="mu:1")

def test_everything_that_changes_a_number_changes_the_key():
    changes = dict(data="x", encoder="mlp", width=1, projection=1, loss="adnce", temperature=.1, loss_options="a=1", views=Views(flip=.1), plain_anchor=True, batch=1, epochs=1,
        learning_rate=1., weight_decay=1., warmup=.2, precision="fp32", seed=1)
    oracle = TrainConfig(loss="info_nce", negatives=8)
    keys = {replace(TrainConfig(), **{k: v}).key for k, v in changes.items()} | {TrainConfig().key, oracle.key, replace(oracle, false_negatives=.5).key}
    assert {*changes, "negatives", "false_negatives"} == set(TrainConfig().as_dict()) and len(keys) == len(changes) + 3

# ---------------------------------------------------------------- encoders

@pytest.mark.parametrize("name, count", [("convnet", 372_608), ("mlp", 15_747_584), ("resnet18", 11_168_832), ("resnet18-stock", 11_176_512)])
def test_sizes(name, count):
    e = build_encoder(name, (3, 32, 32), stream(0))
    assert parameter_count(e.backbone) == count and parameter_count(e.head) == e.dim*e.dim + 2*e.dim + e.dim*128 + 128
    assert isinstance(build_encoder(name, (3, 32, 32), stream(0), projection=0).head, nn.Identity)
    assert not any(p.is_meta for p in e.parameters()) and all(v.isfinite().all() for v in e.state_dict().values())

@pytest.mark.parametrize("name", ENCODERS)
def test_one_channel(name, data):
    e = build_encoder(name, (1, 8, 8), stream(0), width={"convnet": 8, "mlp": 8, "vit": 64, "vit-patch8": 64}.get(name, 0))
    assert extract(e, data.test_x[:4]).shape == (4, e.dim)

def test_resnet_is_torchvisions():
    "The stock one computes what torchvision's computes, given the same weights."
    from torchvision.models import resnet18
    ours, theirs = build_encoder("resnet18-stock", (3, 32, 32), stream(0), projection=0).eval(), resnet18(weights=None).eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 64, 64, generator=stream(1))
    with torch.no_grad(): assert_close(ours(x), theirs(x))
    with torch.no_grad(): assert build_encoder("resnet18", (3, 32, 32), stream(0)).backbone[:4](x[..., :32, :32]).shape == (2, 64, 32, 32)

def test_unknown_layers_are_refused():
    with pytest.raises(TypeError, match="initialise does not know PReLU"): initialise(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), stream(0))
    with pytest.raises(ValueError, match="no stem 'big'"): ENCODERS["resnet18"]((3, 32, 32), stem="big")
    with pytest.raises(ValueError, match="width 64, not 32"): ENCODERS["resnet18"]((3, 32, 32), 32)

# ---------------------------------------------------------------- probes

@pytest.mark.parametrize("mode", [True, False])
def test_probe_leaves_the_encoder_as_it_was(run, data, mode):
    e = run.encoder.train(mode)
    e.head.eval() # a part in another mode stays there
    modes, state = [m.training for m in e.modules()], {k: v.clone() for k, v in e.state_dict().items()}
    probe(e, data, 20)
    assert [m.training for m in e.modules()] == modes and all(torch.equal(v, state[k]) for k, v in e.state_dict().items())
    assert all(p.grad is None or p.grad.isfinite().all() for p in e.parameters()) and all(p.requires_grad for p in e.parameters())

def test_features_do_not_depend_on_the_batch(run, data):
    e = run.encoder.train()
    whole = extract(e, data.test_x)
    assert whole.shape == (449, e.dim) and not whole.requires_grad
    assert_close(extract(e, data.test_x, batch=7), whole, atol=1e-5, rtol=1e-5)

def test_modes_come_back_after_an_error(run, data):
    e = run.encoder.train()
    with pytest.raises(RuntimeError): extract(e, data.test_x.expand(-1, 3, -1, -1))
    assert e.training

def test_linear_probe_against_known_answers():
    g = stream(0, "linear")
    y, t = torch.arange(600) % 3, torch.arange(300) % 3
    x, z = torch.randn(600, 4, generator=g), torch.randn(300, 4, generator=g)
    assert abs(linear_accuracy(x, y, z, t) - 1/3) < .12
    shift = lambda v, y: v + 1e3*torch.tensor([1., 2., 3., 4.])*50 + 8*nn.functional.one_hot(y, 4) # features far from the origin
    assert linear_accuracy(shift(x, y), y, shift(z, t), t) > .99

# ---------------------------------------------------------------- commands

@pytest.fixture
def bare(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_NB_CACHE", str(tmp_path/"cache"))
    monkeypatch.delenv("CONTRASTIVE_NB_DATA", raising=False)
    return tmp_path

def test_train_command_falls_back_on_the_digits_and_says_so(bare, capsys):
    for _ in range(2): train_command(epochs=2, out=str(bare/"runs"), device="cpu", quiet=True)
    out = capsys.readouterr().out
    assert "No image data: going on with scikit-learn's digits." in out and "resuming" in out and "linear probe" in out
    rows = read_rows(bare/"runs"/"runs.jsonl")
    assert len(rows) == 1 and rows[0]["data"]["name"] == rows[0]["config"]["data"] == "digits" and rows[0]["data"]["digest"] == digits().digest # the same run gives way to itself
    assert str(bare) not in (bare/"runs"/"runs.jsonl").read_text() # no place of this machine
    probe_command(str(bare/"runs"/rows[0]["key"]/"checkpoint.safetensors"), device="cpu")
    assert f"linear {100*rows[0]['trained']['linear']:.2f} %" in capsys.readouterr().out

def test_several_seeds_and_a_ledger_elsewhere(bare):
    train_command(data="digits", epochs=1, seed=3, seeds=2, out=str(bare/"runs"), ledger=str(bare/"l.jsonl"), device="cpu", quiet=True, loss="info_nce", regime="crop", temperature=.2)
    frame = runs_frame(rows := read_rows(bare/"l.jsonl"))
    assert list(frame.seed) == [3, 4] and set(frame.loss) == {"info_nce"} and rows[0]["config"]["temperature"] == .2 and rows[0]["config"]["views"]["jitter"] == 0
    assert (frame["linear, trained"] > 50).all() and rows[0]["goodness_of_fit"] is None

def test_a_named_copy_that_is_bad_stays_an_error(bare):
    with pytest.raises(NoData, match="nowhere"): train_command(root=str(bare/"nowhere"), device="cpu")
    (bare/"empty").mkdir()
    with pytest.raises(DataError, match="holds neither"): train_command(root=str(bare/"empty"), device="cpu")
    with pytest.raises(DataError, match="no data set 'mnist'"): load_or_digits("mnist")

@pytest.mark.parametrize("command, words", [(train_command, ["--data", "--root", "--loss-options", "--seeds", "--ledger", "--quiet"]), (probe_command, ["checkpoint", "--neighbours"])])
def test_help(command, words, capsys):
    with pytest.raises(SystemExit): anno_parser(command).parse_args(["-h"])
    out = capsys.readouterr().out
    assert all(w in out for w in words)

def test_a_checkpoint_is_read_in_one_go(tmp_path, data, monkeypatch):
    "A file that is replaced after it was opened does not mix two checkpoints."
    states = [start(SMALL, data) for _ in range(2)]
    for i, s in enumerate(states): s.curve[:i+1], s.step = 1., i + 1
    first, second = (save_checkpoint(tmp_path/str(i), s, data) for i, s in enumerate(states))
    read = Path.read_bytes
    def replaced(self):
        raw = read(self)
        if self == first and second.exists(): second.replace(first)
        return raw
    monkeypatch.setattr(Path, "read_bytes", replaced)
    assert [read_checkpoint(first)[0]["step"] for _ in range(2)] == ["1", "2"]
