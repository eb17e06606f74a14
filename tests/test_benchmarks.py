"Contenders that compute the same thing, tables and bars from rows whose ratios are known, the command. Nothing here asks for speed."
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from contrastive_nb import benchmarks
from contrastive_nb.benchmarks import CONTENDERS, KEY, STEPS, VIEWS, apart, bars, bench, lightly_steps, measure_training, measure_views, noise_images, our_steps, present, ratios, speeds
from contrastive_nb.ledger import read_rows
from contrastive_nb.core import stream
from contrastive_nb.images import digits
from contrastive_nb.training import PRESETS, start, train

def need(contender):
    if not present(contender): pytest.skip(f"{contender} is not installed: pip install 'contrastive_nb[peers]'")

RIVALS = [(loss, c) for loss, makers in CONTENDERS.items() for c in makers if c != "contrastive_nb"]

@pytest.mark.parametrize("loss, contender", RIVALS)
def test_losses_agree_in_value_and_gradient(loss, contender):
    need(contender)
    def both(c):
        views = [torch.randn(24, 8, generator=stream(1, loss, v), dtype=torch.double).requires_grad_() for v in (1, 2)]
        value = CONTENDERS[loss][c]()(*views, .3)
        return value.detach(), *torch.autograd.grad(value, views)
    for theirs, ours in zip(both(contender), both("contrastive_nb"), strict=True): assert_close(theirs, ours, rtol=1e-4, atol=1e-9)

@pytest.mark.parametrize("contender", VIEWS)
def test_views_have_one_shape_and_range(contender):
    need(contender)
    x = noise_images(16).train_x
    v = VIEWS[contender]()(x)
    assert type(v) is torch.Tensor and v.shape == x.shape and v.dtype == torch.float32
    assert 0 <= v.min() < .1 and .9 < v.max() <= 1
    assert not torch.equal(v[0], v[1]) and not torch.equal(v, x/255)

def digits_in_colour():
    d = digits()
    return replace(d, train_x=d.train_x[:64].expand(-1, 3, -1, -1).contiguous())

def test_our_steps_are_those_of_train():
    "Five steps of the benchmark's loop give the weights of `train`, bit by bit, in the precision and memory format of the default."
    data, config = digits(), replace(PRESETS["digits"], width=8, epochs=1, precision="bf16")
    *_, last = our_steps(config, data)
    whole = train(config, data, device="cpu", progress=False).encoder
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in last.state_dict().items())

def test_lightly_starts_from_our_weights_and_leaves_the_global_generator_alone():
    need("lightly")
    data, config, before = digits_in_colour(), replace(PRESETS["digits"], width=8, batch=16), torch.get_rng_state()
    steps = lightly_steps(config, data, workers=1, rate=0.)
    still = next(steps)
    steps.close()
    for theirs, ours in zip(still.backbone.parameters(), start(config, data).encoder.backbone.parameters(), strict=True): assert torch.equal(theirs, ours)
    assert still.head.layers[-2].out_features == config.projection and torch.equal(torch.get_rng_state(), before)
    steps = lightly_steps(config, data, workers=1)
    moved = next(steps)
    steps.close()
    assert not torch.equal(next(moved.backbone.parameters()), next(still.backbone.parameters()))

@pytest.mark.parametrize("contender", STEPS)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision_and_memory_format_of_the_contenders(contender, precision):
    "Ours keeps channels_last always, the peer in bf16 only, as its example has contiguous memory in float32."
    need(contender)
    channels_last = contender == "contrastive_nb" or precision == "bf16"
    steps = STEPS[contender](replace(PRESETS["digits"], width=8, batch=16, precision=precision), digits_in_colour(), 1)
    encoder, seen = next(steps), []
    encoder.backbone[3].register_forward_hook(lambda m, i, o: seen.append((i[0].dtype, o.dtype, i[0].is_contiguous(memory_format=torch.channels_last))))
    next(steps)
    steps.close()
    weight = encoder.backbone[3].weight
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last and weight.dtype == torch.float32
    assert all(o == dtype and c == channels_last for _, o, c in seen) and len(seen) == (1 if contender == "contrastive_nb" else 2)

def test_the_peer_keeps_torchvisions_convolutions():
    need("lightly")
    data, config = digits_in_colour(), replace(PRESETS["digits"], width=0, encoder="resnet18-stock", batch=16)
    replaced = {}
    for contender in STEPS:
        run = STEPS[contender](config, data, 1)
        replaced[contender] = sum("forward" in vars(m) for m in next(run).modules())
        run.close()
    assert replaced == {"contrastive_nb": 16, "lightly": 0}

def test_a_row_of_each_measurement():
    threads = torch.get_num_threads()
    try: rows = [measure_views("contrastive_nb", batch=8, repeats=1, threads=1), measure_training("contrastive_nb", "fp32", "convnet", batch=8, repeats=1, threads=1, images=64)]
    finally: torch.set_num_threads(threads)
    assert [r["what"] for r in rows] == ["views", "training"] and all(r["images_per_second"] > 0 and r["batch"] == 8 and r["threads"] == 1 for r in rows)

# ---------------------------------------------------------------- tables

def loss_row(contender, ms, n=4096, mb=1.): return dict(loss="nt_xent", contender=contender, n=n, milliseconds=ms, megabytes=mb)
def step_row(contender, precision, speed, encoder="resnet18-stock"): return dict(what="training", encoder=encoder, contender=contender, precision=precision, images_per_second=speed)

def test_ratios_are_theirs_over_ours():
    table = ratios([loss_row("contrastive_nb", 2.), loss_row("lightly", 30.), loss_row("contrastive_nb", 1., n=256), loss_row("lightly", 4., n=256)]).set_index(["n", "contender"]).times_slower
    assert table.to_dict() == {(256, "contrastive_nb"): 1, (256, "lightly"): 4, (4096, "contrastive_nb"): 1, (4096, "lightly"): 15}

def test_speeds_are_ours_over_theirs():
    rows = [step_row("contrastive_nb", "bf16", 400.), step_row("contrastive_nb", "fp32", 200.), step_row("lightly", "bf16", 160.), step_row("lightly", "fp32", 100.)]
    table = speeds(rows + [r | dict(encoder="convnet", images_per_second=10*r["images_per_second"]) for r in rows]).set_index(["encoder", "contender", "precision"])
    for e in ("convnet", "resnet18-stock"):
        assert table.loc[e].times_slower.to_dict() == {("contrastive_nb", "bf16"): 1, ("contrastive_nb", "fp32"): 2, ("lightly", "bf16"): 2.5, ("lightly", "fp32"): 4}
        assert table.loc[e].at_equal_precision.to_dict() == {("contrastive_nb", "bf16"): 1, ("contrastive_nb", "fp32"): 1, ("lightly", "bf16"): 2.5, ("lightly", "fp32"): 2}
    assert "at_equal_precision" not in speeds([dict(what="views", contender="contrastive_nb", images_per_second=1.)])

@pytest.mark.parametrize("rows, measured, met", [
    ([loss_row("contrastive_nb", 10.), loss_row("plain PyTorch", 50.)], 5, True),
    ([loss_row("contrastive_nb", 10.), loss_row("plain PyTorch", 49.)], 4.9, False),
    ([loss_row("contrastive_nb", 10.), loss_row("lightly", 80.)], 8, True),
    ([loss_row("contrastive_nb", 10., n=256), loss_row("pytorch-metric-learning", 1990., n=256)], 199, False),
    ([loss_row("contrastive_nb", 10., n=8192, mb=119.)], 119, True),
    ([loss_row("contrastive_nb", 10., n=8192, mb=121.)], 121, False),
    ([step_row("contrastive_nb", "bf16", 100., "convnet"), step_row("lightly", "fp32", 51., "convnet")], 1.96, False),
    ([step_row("contrastive_nb", "bf16", 100.), step_row("lightly", "fp32", 40.)], 2.5, True),
    ([step_row("contrastive_nb", "bf16", 100.), step_row("lightly", "bf16", 80.)], 1.25, True),
    ([step_row("contrastive_nb", "fp32", 100.), step_row("lightly", "fp32", 100.)], 1, False),
    ([dict(what="views", contender=c, images_per_second=s) for c, s in (("contrastive_nb", 60.), ("torchvision v2, tensors", 10.), ("torchvision v2, PIL images", 15.))], 4, False), # the faster of the two counts
    ([dict(what="accuracy", contender=c, accuracy=a) for c, a in (("contrastive_nb", 98.), ("contrastive_nb", 96.), ("lightly", 97.5))], -.5, False), # the mean over seeds
])
def test_bars(rows, measured, met):
    [row] = bars(rows).to_dict("records")
    assert row["measured"] == measured and row["met"] == met

def test_bars_of_all_rows_together():
    "No row of one benchmark hides or moves a bar of another; a bar without rows is left out."
    rows = [loss_row("contrastive_nb", 1., n, 100.) for n in (256, 4096, 8192)] + [loss_row(c, 9., 4096) for c in ("plain PyTorch", "lightly")] + [loss_row("pytorch-metric-learning", 300., 256)]
    rows += [dict(what="views", contender=c, images_per_second=s) for c, s in (("contrastive_nb", 60.), ("torchvision v2, tensors", 10.), ("torchvision v2, PIL images", 12.), ("lightly", 1.))]
    rows += [step_row(c, p, s, e) for e in ("convnet", "resnet18-stock") for c, p, s in (("contrastive_nb", "bf16", 300.), ("contrastive_nb", "fp32", 150.), ("lightly", "bf16", 200.), ("lightly", "fp32", 100.))]
    rows += [dict(what="accuracy", contender=c, accuracy=a) for c, a in (("contrastive_nb", 98.), ("lightly", 97.), ("contrastive_nb, rate 0.005", 97.), ("lightly, our views, rate 0.5", 99.))]
    assert bars(rows).measured.tolist() == [9, 9, 300, 100, 5, 3, 3, 1.5, 1.5, 1, -2] and bars(rows).met.tolist() == [True]*10 + [False]
    assert len(bars(rows[:6])) == 4 and len(bars([])) == 0

# ---------------------------------------------------------------- the command

def test_what_can_be_measured_is_named():
    with pytest.raises(ValueError, match="nothing to measure called 'lunch': choose losses, views, training, accuracy"): bench("lunch")

@pytest.mark.processes
def test_a_failure_in_the_other_process_says_which():
    with pytest.raises(RuntimeError, match="'nobody'.*failed: KeyError"): apart(measure_views, contender="nobody", threads=1)

def test_bench_records_every_row_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "LEDGER", tmp_path/"rows.jsonl")
    asked = []
    def pretend(f, **settings):
        asked.append(settings)
        return {"measure_views": dict(what="views", images_per_second=2.), "measure_training": dict(what="training", images_per_second=3.),
                "measure_accuracy": dict(what="accuracy", images=1, accuracy=50.), "measure": dict(milliseconds=1., megabytes=None)}[f.__name__] | settings
    monkeypatch.setattr(benchmarks, "apart", pretend)
    for what in ("losses", "views", "training", "accuracy", "views"): assert bench(what, sizes="256,512", seeds=2, threads=3, record=True) == 0
    rows = read_rows(tmp_path/"rows.jsonl")
    names = [tuple(r.get(k) for k in KEY) for r in rows]
    assert len(set(names)) == len(names) == len(asked) - sum(present(c) for c in VIEWS)
    assert all(s["threads"] == 3 for s in asked) and not any(s["contender"] == "pytorch-metric-learning" and s["n"] > 256 for s in asked)
    assert all(r["threads"] == 3 and set(r["peers"]) == set(benchmarks.PACKAGES) for r in rows)
    assert "images/s" in capsys.readouterr().out

GPU_ROW = dict(what="gpu", loss="sigmoid_loss", precision="bf16", n=65536, dim=128, hardware="a card")
def gpu_row(contender, ms, mb=1., **other): return GPU_ROW | dict(contender=contender, milliseconds=ms, megabytes=mb, value_error=0., gradient_error=0.) | other

def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench("gpu") == 1 and capsys.readouterr().out == "bench gpu: no GPU here, nothing measured\n"

def test_the_most_expensive_problems_come_first():
    found = benchmarks.problems([4096, 65536], [128, 768])
    assert len(found) == len(set(found)) == 3*2*2*4
    assert found[0] == ("sigmoid_loss", "bf16", 65536, 128) and found[-1] == ("info_nce", "fp32", 4096, 768)

def test_who_takes_part(monkeypatch):
    here = lambda *names: monkeypatch.setattr(benchmarks, "find_spec", lambda name: name in names or None)
    who = lambda precision, dim=128, loss="clip_loss": {c for c in benchmarks.GPU[loss] if benchmarks.takes_part(c, benchmarks.Problem(loss, precision, 8, dim))}
    here()
    assert who("bf16") == who("fp32") == {"contrastive_nb", "plain PyTorch", "plain PyTorch, compiled"} and "plain PyTorch, compiled" not in who("bf16", 512) | who("tf32")
    here(*benchmarks.GPU_PACKAGES.values())
    assert who("bf16") == set(benchmarks.GPU["clip_loss"]) and who("tf32") == {"contrastive_nb", "plain PyTorch", "open_clip", "inf-cl, both ways"}
    assert "siglip-kernel" in who("bf16", loss="sigmoid_loss") and "siglip-kernel" not in who("fp32", loss="sigmoid_loss")

@pytest.mark.parametrize("loss", benchmarks.GPU)
@pytest.mark.parametrize("precision, worst", [("fp32", 1e-6), ("bf16", .01)])
def test_errors_beside_float64(loss, precision, worst):
    for contender in ("contrastive_nb", "plain PyTorch"):
        errors = benchmarks.gpu_errors(benchmarks.Problem(loss, precision, 8, 32), contender, "cpu", n=96)
        assert max(errors.values()) < worst

def test_a_contender_that_fails_gets_a_row_that_says_how(monkeypatch):
    p = benchmarks.Problem("clip_loss", "bf16", 8, 16)
    def fail(error):
        def f(*_): raise error
        monkeypatch.setitem(benchmarks.GPU["clip_loss"], "plain PyTorch", f)
        return benchmarks.first_look(p, "plain PyTorch", benchmarks.gpu_inputs(p, "cpu"))
    monkeypatch.setattr(benchmarks, "gpu_errors", lambda p, c, device: {} if not c else benchmarks.GPU[p.loss][c]())
    assert fail(torch.cuda.OutOfMemoryError()) == (dict(note="out of memory"), None)
    assert fail(RuntimeError("no such kernel\nmore")) == (dict(note="RuntimeError: no such kernel"), None)

def test_a_slice_stops_and_the_next_goes_on(monkeypatch, tmp_path, capsys):
    "Rows of another card do not count, rows of this one are not measured again, and a limit begins nothing."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
    seen, ledger = [], tmp_path/"gpu.jsonl"
    def measured(p, contenders, rounds):
        seen.append((p, *contenders))
        return [GPU_ROW | p._asdict() | dict(contender=c, milliseconds=1., megabytes=1.) for c in contenders]
    monkeypatch.setattr(benchmarks, "provenance", benchmarks.provenance.__wrapped__) # not the one of the process
    monkeypatch.setattr(benchmarks, "measure_gpu", measured)
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None)
    run = lambda **kw: bench("gpu", sizes="16", dims="128", ledger=str(ledger), **kw)
    assert run(minutes=1e-9) == 0 and not seen and "run the same command again" in capsys.readouterr().out
    assert run() == 0
    first, rows = len(seen), read_rows(ledger)
    assert first == 12 and len(rows) == sum(len(s)-1 for s in seen) and all(r["hardware"] == "a card" and "versions" in r and r["peers"]["inf-cl"] is None for r in rows)
    assert run() == 0 and len(seen) == first
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "another")
    assert run() == 0 and len(seen) == 2*first and len(read_rows(ledger)) == 2*len(rows)

def test_table_and_bars_of_the_gpu():
    rows = [gpu_row("contrastive_nb", 12., 2.), gpu_row("siglip-kernel", 10., 2.), gpu_row("contrastive_nb", 30., 3., loss="nt_xent"),
            gpu_row("contrastive_nb", 5., dim=512), gpu_row("contrastive_nb", 1., hardware="another"), GPU_ROW | dict(contender="plain PyTorch", note="out of memory")]
    frame = benchmarks.gpu_frame(rows).set_index(["hardware", "loss", "dim", "contender"])
    assert frame.times_ours["a card", "sigmoid_loss", 128, "siglip-kernel"] == pytest.approx(10/12)
    assert frame.note["a card", "sigmoid_loss", 128, "plain PyTorch"] == "out of memory" and frame.times_ours.isna().sum() == 1
    bars = benchmarks.gpu_bars(rows).set_index("loss")
    assert list(bars.index) == ["nt_xent", "sigmoid_loss"] and list(bars.times) == [3., 1.2] and list(bars.time_met) == [False, True] and list(bars.memory_met) == [False, True]
    assert "a card: 5 rows" in benchmarks.gpu_statement(rows) and benchmarks.gpu_statement([]).startswith("not-run")
    assert "out of memory" in benchmarks.describe(rows[-1]) and "n 65536" in benchmarks.describe(rows[0])

def test_rows_of_a_gpu_are_no_bars_of_a_processor():
    rows = [dict(loss="nt_xent", contender=c, n=4096, milliseconds=t) for c, t in (("contrastive_nb", 100.), ("lightly", 900.))]
    gpu = [r | dict(what="gpu", milliseconds=1.) for r in rows]
    assert benchmarks.bars(rows + gpu).equals(benchmarks.bars(rows)) and benchmarks.bars(rows).measured.tolist() == [9.]
