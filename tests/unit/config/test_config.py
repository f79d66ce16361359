"""A configuration is understood whole or refused in one line that names the key."""

import copy

import pytest
import yaml

from kan_md.config import load_config, parse_config
from kan_md.config.without_effect import settings_without_effect
from kan_md.errors import KanMdError

GOOD = {
    "data": {"train": "ag.xyz"},
    "model": {"backbone": "allegro", "r_max": 5, "l_max": 1},
    "training": {"epochs": 3},
}


def changed(key, value):
    content = copy.deepcopy(GOOD)
    *sections, last = key.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return content


def test_short_file_has_sensible_defaults():
    config = parse_config(GOOD)
    assert config.readout.kind == "kan" and config.readout.hidden == ()
    assert config.training.loss.energy_per == "atom"
    assert config.model.hyperparameters == {"l_max": 1}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.r_max", -1, ("model.r_max", "got -1", "> 0", "change model.r_max")),
        ("model.r_max", float("nan"), ("model.r_max", "nan")),
        ("model.backbone", "alegro", ("'alegro'", "'nequip'", "did you mean allegro?")),
        ("model.r_mx", 3, ("unknown", "model.r_mx", "did you mean r_max?")),
        ("model.num_layer", 3, ("unknown", "model.num_layer", "did you mean num_layers?")),
        ("model.per_type_energy_shifts", "leastsquares", ("did you mean least_squares?",)),
        ("model.per_type_energy_scales", -3, ("'forces_rms'", "> 0")),
        ("model.per_type_energy_scales", float("inf"), ("per_type_energy_scales", "finite")),
        ("model.E0s", {"Cu": float("nan")}, ("energy of Cu must be a finite number in eV",)),
        ("model.per_type_energy_shifts", {"Cu": "none"}, ("energy of Cu must be a finite",)),
        ("training.optimizer.lr", float("inf"), ("training.optimizer.lr", "finite")),
        ("training.gradient_clip", float("inf"), ("training.gradient_clip", "finite")),
        ("data.split.val", -1, ("data.split.val, got -1", "change data.split.val")),
        ("readout.kind", "kam", ("readout.kind", "'kam'", "'mlp'", "did you mean kan?")),
        ("readout.grid_range", [1, 2], ("0 inside", "[1, 2]")),
        ("readout.fit_grid", {"stpes": [0]}, ("readout.fit_grid.stpes", "did you mean steps?")),
        ("readout", {"kind": "mlp", "fit_grid": {}}, ("readout.fit_grid has no effect with",)),
        ("readout", {"kind": "linear", "num_basis": 9}, ("readout.num_basis has no effect",)),
        ("training.epoch", 3, ("unknown", "training.epoch", "did you mean epochs?")),
        ("training.epochs", "many", ("training.epochs", "'many'", "integer")),
        ("training.epochs", None, ("epochs, max_time or both",)),
        ("training.max_time", "10x", ("training.max_time", "'10x'", "1h30m")),
        ("training.ema", 1.5, ("training.ema", "1.5", "< 1")),
        ("training.loss.enrgy", 1, ("training.loss.enrgy", "did you mean energy?")),
        ("training.loss", {"energy": 0, "forces": 0}, ("at least one",)),
        ("training.schedule.name", "cosin", ("'one_cycle'", "did you mean cosine?")),
        ("training.stages", [{"strt": 0.5, "loss": {}}], ("stages.0.strt", "mean start?")),
        ("training.stages", [{"start": 0.5}], ("training.stages.0.loss", "nothing")),
        ("data.split", {"train": 0.95, "val": 0.1}, ("must not exceed 1", "train 0.95, val 0.1;")),
        (
            "data.split",
            {"train": 4, "val": 1.0, "test": 0.1},
            ("val 1.0, test 0.1", "whole number"),
        ),
        ("data.split.train", 1.5, ("a share up to 1 (0.8) or a number of structures (12)", "1.5")),
        ("data.split.train", True, ("data.split.train", "a share up to 1")),
        ("data.split.val", 0, ("split.val must be > 0 where data.val has to be divided",)),
        ("data.split.test", -1, ("data.split.test", ">= 0")),
        ("model.r_max", "five", ("allowed: number; change model.r_max",)),
        ("r_max", 5.0, ("unknown", "did you mean model.r_max?")),
        ("data.train", None, ("data.train", "got None")),
        ("trainin", {}, ("unknown", "did you mean training?")),
        ("targets", [{"name": "bec"}], ("targets", "remove targets")),
    ],
)
def test_mistake_is_one_line_that_names_it(key, value, said):
    with pytest.raises(KanMdError) as error:
        parse_config(changed(key, value))
    message = str(error.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_missing_section_is_named():
    with pytest.raises(KanMdError, match=r"data\.train, got nothing; add data\.train"):
        parse_config({**GOOD, "data": {}})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), (12, 12)])
def test_durations(text, seconds):
    assert parse_config(changed("training.max_time", text)).training.max_time == seconds


def test_file_with_overrides_and_relative_paths(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    config = load_config(path, ["training.epochs=7", "readout.kind=mlp", "data.val=[a.xyz]"])
    assert config.training.epochs == 7
    assert config.readout.kind == "mlp"
    assert config.data.train == [tmp_path / "ag.xyz"]
    assert config.data.val == [tmp_path / "a.xyz"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not found"),
        ("a: [", "no YAML"),
        ("- 1", "must hold a mapping.*got a list"),
        ("data:\n\ttrain: a.xyz", "line 2, column 1; indent with spaces"),
        ("data: {}\ndata: {}", "key data is there twice in line 2"),
        ("", "must hold a mapping.*got nothing"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KanMdError, match=said) as error:
        load_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs", "a setting must"),
        ("=3", "a setting must"),
        ("training..epochs=3", "a setting must"),
        ("data.train.x=1", "a setting must"),
        ("training.epochs=[", r"--set training\.epochs=\[ is no YAML"),
    ],
)
def test_malformed_override_is_one_line(tmp_path, override, said):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    with pytest.raises(KanMdError, match=said) as error:
        load_config(path, [override])
    assert "\n" not in str(error.value)


def test_penalties_of_kans_are_refused_without_one():
    content = changed("training.regularization", {"l1": 1e-4})
    assert parse_config(content).training.regularization.l1 == 1e-4
    with pytest.raises(KanMdError, match=r"regularization.l1 has no effect with readout.kind mlp"):
        parse_config({**content, "readout": {"kind": "mlp"}})


def test_names_of_the_readme_are_keys_of_every_potential():
    model = {"r_max": 4.0, "num_layers": 2, "l_max": 1}
    widths = {"num_scalar_features": 8, "num_tensor_features": 8}
    for backbone in ("allegro", "nequip", "mace"):
        parse_config({**GOOD, "model": {"backbone": backbone, **model, **widths}})
    with pytest.raises(KanMdError, match=r"model\.l_max and model\.max_ell of mace"):
        parse_config({**GOOD, "model": {"backbone": "mace", **model, "max_ell": 2}})


def test_tensors_need_a_weight():
    content = changed("model", {"backbone": "etgnn", "r_max": 3.0})
    with pytest.raises(KanMdError, match="weights of all targets, got 0; allowed: at least one"):
        parse_config({**content, "targets": [{"name": "bec", "weight": 0.0}]})


@pytest.mark.parametrize(
    ("key", "value", "idle"),
    [
        ("training.schedule", {"name": "cosine", "patience": 3}, ["training.schedule.patience"]),
        ("training.schedule", {"name": "plateau", "patience": 3}, []),
        ("training.schedule", {"name": "constant", "final": 0.5}, ["training.schedule.final"]),
        ("training.loss", {"function": "mae", "delta": 0.1}, ["training.loss.delta"]),
        ("training.loss", {"function": "huber", "delta": 0.1}, []),
        ("training.fresh_readout", True, ["training.fresh_readout"]),
        ("data.split", {"method": "random", "blocks": 4, "seed": 3}, ["data.split.blocks"]),
        ("data.split", {"method": "block", "blocks": 4, "seed": 3}, ["data.split.seed"]),
        ("model.per_type_energy_scales", 2.0, []),
    ],
)
def test_settings_without_effect_are_known(key, value, idle):
    assert settings_without_effect(parse_config(changed(key, value))) == idle


def test_settings_of_potentials_are_idle_for_tensors():
    content = changed("model", {"backbone": "etgnn", "r_max": 3.0, "E0s": {"Cu": 1.0}})
    content["training"]["loss"] = {"energy": 10, "forces": 1, "function": "huber", "delta": 0.1}
    content["data"] |= {"max_force": 5.0}
    config = parse_config({**content, "targets": [{"name": "bec"}]})
    assert set(settings_without_effect(config)) == {
        "data.max_force", "model.per_type_energy_shifts",
        "training.loss.energy", "training.loss.forces", "training.loss.stress",
    }  # fmt: skip
