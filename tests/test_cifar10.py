"""The bookkeeping of the CIFAR-10 experiments: what is run, what is chosen by what, and what is compared with what."""
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from PIL import Image

from contrastive_nb import cifar10
from contrastive_nb.cifar10 import (EXPERIMENTS, FIGURE_3, TRIALS, TUNING_SEED, chosen_runs, cifar_frame, experiment, hours_left, leads, paired, phi_measure, regime_name,
    split_classes, split_probe, trial_runs, widening)
from contrastive_nb.cli import main
from contrastive_nb.core import stream
from contrastive_nb.encoders import ENCODERS, build_encoder
from contrastive_nb.images import REGIMES, Views, digits
from contrastive_nb.training import PRESETS, TrainConfig, loss_function, train

@pytest.mark.parametrize("budget", ["slow", "full"])
@pytest.mark.parametrize("what", EXPERIMENTS)
def test_every_run_is_another_and_can_be_made(what, budget):
    runs = EXPERIMENTS[what][0](budget)
    assert len({c.key for c in runs}) == len(runs) and all(TrainConfig.from_dict(c.as_dict()) == c for c in runs)
    for c in runs: loss_function(c.loss, c.temperature, c.loss_options)
    with torch.device("meta"): # the names and widths of the encoders exist
        for encoder, width in {(c.encoder, c.width) for c in runs}: ENCODERS[encoder]((3, 32, 32), **({"width": width} if width else {}))

def test_tuning_is_equal_and_uses_no_seed_of_the_comparison():
    trials = trial_runs()
    assert {len(t) for t in TRIALS.values()} == {4} and {c.seed for c in trials} == {TUNING_SEED}
    rows = [dict(config=c.as_dict(), trained=dict(validation=.1*(i % 4 == 2), linear=.1*(i % 4 == 1))) for i, c in enumerate(trials)] # the third by validation, the second by the test images
    chosen = chosen_runs(rows)
    assert len(chosen) == 3*len(TRIALS) and TUNING_SEED not in {c.seed for c in chosen}
    assert {replace(c, seed=TUNING_SEED).key for c in chosen} == {trials[i].key for i in range(2, len(trials), 4)}

def test_parts_are_balanced_and_disjoint():
    labels = torch.arange(5).repeat(40)[torch.randperm(200, generator=stream(0))]
    a, b = split_classes(labels, 20, 15)
    assert labels[a].bincount().tolist() == [20]*5 and labels[b].bincount().tolist() == [15]*5 and not set(a.tolist()) & set(b.tolist())
    with pytest.raises(ValueError, match="30 \\+ 15 images of each class are wanted, but one has 40"): split_classes(labels, 30, 15)

def test_validation_never_sees_the_test_images():
    data = digits()
    encoder = build_encoder("convnet", (1, 8, 8), stream(0), width=8)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    first = split_probe(encoder, data, 60, 30)
    wrong = split_probe(encoder, replace(data, test_y=(data.test_y + 1) % 10), 60, 30)
    assert first["validation"] == wrong["validation"] > .8 and first["linear"] > .8 > .3 > wrong["linear"] and wrong["knn"] < .3
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())

def test_phi_of_an_encoder_that_ignores_the_views_is_small_and_modes_are_kept(monkeypatch):
    data, encoder = digits(), build_encoder("convnet", (1, 8, 8), stream(0), width=8, projection=4)
    assert encoder.training and phi_measure(encoder, data)["phi"] > .1 and encoder.training
    monkeypatch.setattr(cifar10, "Views", lambda: Views(crop=False, flip=0., jitter=0., grey=0.))
    assert phi_measure(encoder, data)["phi"] < 1e-12

def test_differences_are_paired_and_have_a_sign():
    f = pd.DataFrame({"a": [3., 5., 7.], "b": [1., 2., 3.]})
    mean, se = paired(f, "a", "b")
    assert mean == 3 and se == pytest.approx(1/3**.5) and leads(f, "b").loc["a", "lead"] == 3
    grid = FIGURE_3.stack().to_frame().T
    assert widening(grid).item() == (33 - 31) - (56 - 42) and widening(grid, "crop").item() == (37 - 43) - (56 - 42)

def test_regimes_have_names():
    assert [regime_name(v.as_dict()) for v in (*REGIMES.values(), Views())] == [*REGIMES, ""]

def test_expected_time_is_known_only_from_runs():
    run = trial_runs()[0]
    row = dict(config=run.as_dict(), steps=10, train_seconds=20., probe_seconds=5.)
    assert math.isnan(hours_left([run], [], 1)) and hours_left([], [], 2) == 0
    assert hours_left([run], [row], 2) == pytest.approx((2*195 + 5)/3600/2)

def test_pictures_of_a_checkpoint_say_what_they_show(tmp_path, capsys):
    data, config = digits(), replace(PRESETS["digits"], width=8, epochs=1)
    run = train(config, data, tmp_path, device="cpu", progress=False)
    assert main(["picture", str(run.path), "--out", str(tmp_path/"new"/"pictures"), "--device", "cpu"]) == 0
    paths = [tmp_path/"new"/"pictures"/f"{name}.png" for name in ("neighbours", "map")]
    assert capsys.readouterr().out.split() == list(map(str, paths))
    for path in paths:
        image = Image.open(path)
        assert (image.text["run"], image.text["step"], image.text["data"]) == (config.key, str(len(run.curve)), data.digest) and min(image.size) > 300
        assert len(image.convert("RGB").getcolors(10**6)) > 10 # not a blank sheet
    assert main(["picture", str(tmp_path/"none.safetensors")]) == 1 and "no checkpoint at" in capsys.readouterr().err

def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="no experiment 'tables'; there are grid, losses, false-negatives, phi, lengths"): experiment("tables")
    with pytest.raises(ValueError, match="no budget 'huge'; there are slow, full"): experiment("grid", "huge")
    with pytest.raises(ValueError, match="no rows of grid at the budget slow: run `contrastive-nb sweep grid --budget slow`"): cifar_frame("grid", path=tmp_path/"none.jsonl")
