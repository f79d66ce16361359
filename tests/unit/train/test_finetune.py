"""A model that starts from another is what its configuration says, or an error says why not."""

import io
import json

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from kan_md.backbones.arguments import STATISTICS, TRAINABILITY, find_differences, same
from kan_md.backbones.build import ADAPTERS, adapter_of, build_model
from kan_md.backbones.readout import parse_readout
from kan_md.backbones.transfer import readout_arguments, transfer_weights
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.reference import evaluate
from kan_md.train.finetune import find_reference_gap, take_weights
from kan_md.train.run import train
from kan_md_deploy import deploy
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.inspect import describe_file

TYPES = ("Cu", "Au")
STILL = {"training.epochs": 1, "training.optimizer": {"name": "sgd", "lr": 1e-30}}


def start(make_config, folder, source, changes=None):
    """Start from a model without moving its weights; give the new one and what was said."""
    screen = Console(file=io.StringIO(), width=1000)
    config = make_config({**STILL, "training.init_from": str(source), **(changes or {})})
    train(config, folder, console=screen)
    return load_checkpoint(folder / "model.pth"), screen.file.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory, make_config):
    """A trained model of one epoch."""
    folder = tmp_path_factory.mktemp("source")
    train(make_config({"training.epochs": 1}), folder)
    return folder / "model.pth"


def other_value(parameter):
    """Something else than the default, of its kind."""
    default = parameter.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, str):
        return f"{default}x"
    return {"a": 1}


@pytest.mark.parametrize("backbone", ADAPTERS)
def test_every_hyperparameter_of_the_potential_is_compared(backbone):
    readout = parse_readout("kan")
    besides = STATISTICS | TRAINABILITY | readout_arguments(backbone, readout)
    ours = {"r_max": 4.0} | ({"l_max": 1} if backbone in ("allegro", "nequip") else {})
    for name, parameter in adapter_of(backbone).hyperparameters().items():
        if name in besides or name == "tensors":
            continue
        theirs = {**ours, name: other_value(parameter)}
        found = find_differences(backbone, ours, theirs, besides=besides)
        assert {difference.key.split(".")[0] for difference in found} == {name}
    assert find_differences(backbone, ours, {**ours, "r_max": 5.0})[0].key == "r_max"


def test_spelling_is_no_difference():
    assert same("64x0e+64x1o", "64x0e + 64x1o")
    assert same((64, 64), [64.0, 64.0])
    assert same(3, [3, 3])
    assert not same(3, [3, 2])
    assert not same(True, 1)
    assert not same("64x0e", "32x0e")
    one = {"num_layers": 2, "l_max": 1, "hidden_irreps": "4x0e"}
    other = {"num_interactions": 2, "max_ell": 1, "num_scalar_features": 4, "correlation": 3}
    assert find_differences("mace", one, other) == []
    assert find_differences("allegro", {"l_max": 1}, {"l_max": 1, "num_layers": 2}) == []
    spelt = {"l_max": 1, "radial_chemical_embed": None}
    bessels = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8}
    assert find_differences("allegro", spelt, {"l_max": 1, "radial_chemical_embed": bessels}) == []


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_weights_make_the_same_potential_in_any_dtype(
    tiny_checkpoint, alloy_frames, backbone, dtype
):
    path = tiny_checkpoint(backbone, type_names=TYPES)
    there = load_checkpoint(path)
    arguments = {**there.config["model"], "seed": 5, "model_dtype": dtype}
    model = build_model(backbone, **arguments)
    transfer = take_weights(model, arguments, str(path), backbone=backbone)
    assert transfer.fresh == transfer.dropped == ()
    ours, theirs = (evaluate(m.eval(), alloy_frames[0]) for m in (model, there.build()))
    exact = {"rtol": 0, "atol": 1e-9 if dtype == "float64" else 1e-4}
    torch.testing.assert_close(ours["energy"], theirs["energy"], **exact)
    torch.testing.assert_close(ours["forces"], theirs["forces"], **exact)


ANOTHER = {
    "allegro": {"r_max": 4.5, "parity": False, "num_layers": 2, "tp_path_channel_coupling": False},
    "nequip": {"r_max": 4.5, "polynomial_cutoff_p": 5, "num_bessels": 7, "convnet_resnet": True},
    "mace": {
        "r_max": 4.5,
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "num_polynomial_cutoff": 6,
    },
}


@pytest.mark.parametrize("backbone", ANOTHER)
def test_another_potential_is_refused_with_every_difference(tiny_checkpoint, backbone):
    path = tiny_checkpoint(backbone, type_names=TYPES)
    arguments = {**load_checkpoint(path).config["model"], **ANOTHER[backbone]}
    with pytest.raises(KanMdError) as caught:
        take_weights(build_model(backbone, **arguments), arguments, str(path), backbone=backbone)
    message = str(caught.value)
    for name, value in ANOTHER[backbone].items():
        assert f"{name} {value} here, " in message
    assert "write its values into section model" in message
    assert "\n" not in message


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_readout_of_another_basis_and_the_same_shape_starts_fresh(tiny_checkpoint, backbone):
    """Weights of eight Gaussians fit eight sines and would be nonsense there."""
    path = tiny_checkpoint(backbone, type_names=TYPES, readout={"kind": "kan"})
    there = load_checkpoint(path)
    readout = {"kind": "kan", "basis": "fourier"}
    arguments = {**there.config["model"], "readout": readout, "seed": 5}
    model = build_model(backbone, **arguments)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transfer = take_weights(model, arguments, str(path), backbone=backbone)
    after = model.state_dict()
    assert transfer.fresh_functions
    assert all("readout" in name for name in transfer.fresh_functions)
    for name in transfer.fresh:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, equal_nan=True)
    if backbone == "mace":
        # Upstream's linear maps beside the KANs are the same in both and stay.
        assert transfer.fresh_functions == ("readout0.beside", "readout1.beside")
        assert any("readout0.block" in name for name in transfer.taken)


def test_only_the_site_that_differs_starts_fresh(tiny_checkpoint):
    both = {"kind": "kan", "sites": ["output", "latent"]}
    path = tiny_checkpoint("allegro", type_names=TYPES, readout=both)
    arguments = {**load_checkpoint(path).config["model"], "readout": {"kind": "kan"}}
    old, new = load_checkpoint(path).build(), build_model("allegro", **arguments)
    transfer = transfer_weights(new, old, backbone="allegro")
    assert transfer.fresh_functions == ("allegro.latents.0",)
    whole = transfer_weights(new, old, backbone="allegro", fresh_readout=True)
    assert set(whole.fresh_functions) == {"edge_readout", "allegro.latents.0"}


def test_given_numbers_of_the_data_are_in_the_model(source, make_config, tmp_path):
    given = {
        "model.per_type_energy_shifts": {"Cu": -1.0, "Au": -2.0},
        "model.per_type_energy_scales": 3.0,
        "model.avg_num_neighbors": 7.0,
    }
    model, _ = start(make_config, tmp_path, source, given)
    assert model.config["model"]["per_type_energy_shifts"] == {"Cu": -1.0, "Au": -2.0}
    state = {name.split(".")[-1]: value for name, value in model.state_dict.items()}
    assert state["shifts"].flatten().tolist() == [-1.0, -2.0]
    assert state["scales"].flatten().tolist() == [3.0]
    assert model.config["model"]["avg_num_neighbors"] == 7.0


def test_words_mean_the_source_and_zero_means_zero(source, make_config, tmp_path):
    words = {
        "model.per_type_energy_shifts": "least_squares",
        "model.per_type_energy_scales": "forces_rms",
        "model.avg_num_neighbors": "auto",
    }
    there = load_checkpoint(source)
    same_as_there, _ = start(make_config, tmp_path / "words", source, words)
    for name in STATISTICS & there.config["model"].keys():
        assert same_as_there.config["model"][name] == there.config["model"][name]
    said = same_as_there.statistics
    assert said["reference_energies"] == there.config["model"]["per_type_energy_shifts"]
    assert set(said["reference_sources"].values()) == {"training.init_from"}
    zero, _ = start(
        make_config, tmp_path / "zero", source, {"model.per_type_energy_shifts": "zero"}
    )
    (shifts,) = (v for n, v in zero.state_dict.items() if n.endswith(".shifts"))
    assert shifts.flatten().tolist() == [0.0, 0.0]


@pytest.fixture
def shifted(alloy_file, tmp_path):
    """The alloy with energies of another reference."""
    frames = ase.io.read(alloy_file, ":")
    for atoms in frames:
        atoms.calc.results["energy"] += 4.6 * len(atoms) + 0.5 * np.sum(atoms.symbols == "Au")
    path = tmp_path / "shifted.xyz"
    ase.io.write(path, frames)
    return path


def test_gap_of_references_is_found_by_type(source, alloy_frames):
    model, frames = load_checkpoint(source), []
    for number, atoms in enumerate(alloy_frames):
        copy = atoms.copy()
        copy.symbols[:number] = "Cu"  # compositions that tell the types apart
        copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
        frames.append(copy)
    before = find_reference_gap(model, frames)
    for atoms in frames:
        atoms.calc.results["energy"] += 4.6 * len(atoms) + 0.5 * np.sum(atoms.symbols == "Au")
    after = find_reference_gap(model, frames)
    assert after.constants["Cu"] - before.constants["Cu"] == pytest.approx(4.6, abs=1e-4)
    assert after.constants["Au"] - before.constants["Au"] == pytest.approx(5.1, abs=1e-4)
    assert after.remainder == pytest.approx(before.remainder, abs=1e-4)
    assert after.is_of_another_reference
    own = find_reference_gap(model, frames, after.shifts)
    assert own.rms == pytest.approx(after.remainder, abs=1e-6)
    assert not own.is_of_another_reference


def test_labels_of_another_reference_are_said_with_the_remedy(
    source, shifted, make_config, tmp_path
):
    _, said = start(make_config, tmp_path / "one", source, {"data.train": str(shifted)})
    assert "labels of another reference? then set model.per_type_energy_shifts: {Cu: " in said
    remedy = said.split("per_type_energy_shifts: {")[1].split("}")[0]
    shifts = {k: float(v) for k, v in (pair.split(": ") for pair in remedy.split(", "))}
    changes = {"data.train": str(shifted), "model.per_type_energy_shifts": shifts}
    _, said = start(make_config, tmp_path / "two", source, changes)
    assert "another reference" not in said
    errors = json.loads((tmp_path / "two" / "metrics.json").read_text())["errors"]
    assert errors["train"]["energy_mae"] < 0.5


def test_labels_of_the_same_reference_are_not_suspected(source, make_config, tmp_path):
    _, said = start(make_config, tmp_path, source)
    assert "another reference" not in said
    assert "weights of " in said


def test_types_without_data_are_said_and_kept(source, alloy_file, make_config, tmp_path):
    copper = ase.io.read(alloy_file, ":")
    for atoms in copper:
        atoms.symbols[:] = "Cu"
    path = tmp_path / "copper.xyz"
    ase.io.write(path, copper)
    model, said = start(make_config, tmp_path / "one", source, {"data.train": str(path)})
    assert "without data here, as they were there: Au" in said
    assert model.statistics["untrained_types"] == []
    pair = load_checkpoint(source).statistics["min_distances"][3]  # of gold, not in this data
    assert model.statistics["min_distances"][3] == pair > 0
    fresh = make_config(
        {"training.epochs": 1, "data.train": str(path), "model.type_names": ["Cu", "Au"]}
    )
    screen = Console(file=io.StringIO(), width=1000)
    train(fresh, tmp_path / "two", console=screen)
    assert "no training structure has Au: its weights stay random" in screen.file.getvalue()
    assert load_checkpoint(tmp_path / "two" / "model.pth").statistics["untrained_types"] == ["Au"]
    path_of_two = deploy(tmp_path / "two" / "model.pth", tmp_path / "two.deployed.pth")
    assert read_manifest(path_of_two).untrained_types == ("Au",)
    assert describe_file(path_of_two)["untrained_types"] == ["Au"]
    # A model that starts from there knows it, too.
    model, _ = start(
        make_config, tmp_path / "three", tmp_path / "two" / "model.pth", {"data.train": str(path)}
    )
    assert model.statistics["untrained_types"] == ["Au"]


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["Au", "Cu"], r"got another order, Au, Cu; allowed: Cu, Au"),
        (["Ag", "Cu", "Au"], r"got another order, Ag, Cu, Au; allowed: Cu, Au, then new ones"),
    ],
)
def test_other_types_are_named(source, make_config, tmp_path, types, message):
    with pytest.raises(KanMdError, match=message):
        start(make_config, tmp_path / "new", source, {"model.type_names": types})
    assert not (tmp_path / "new").exists()


def test_files_that_are_no_source_are_one_line(
    source, tiny_checkpoint, deployed, make_config, tmp_path
):
    for path, message in (
        (tmp_path / "none.pth", "model file not found"),
        (source.parent / "checkpoints" / "last.ckpt", "a Lightning training checkpoint"),
        (deployed("allegro", type_names=TYPES), "a compiled .* file"),
        (tiny_checkpoint("mace", type_names=TYPES), "got mace; allowed: allegro; set model.backb"),
        (tmp_path, "a model is a file, not a folder"),
    ):
        with pytest.raises(KanMdError, match=message) as caught:
            start(make_config, tmp_path / "new", path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_source_whose_weights_are_not_what_it_says_is_refused(
    source, alloy_frames, make_config, tmp_path
):
    """Whatever is compared by name: with all weights taken over energies must be the same."""
    there = load_checkpoint(source)
    arguments = there.config["model"]
    model = build_model("allegro", **arguments)
    there.config = {"model": {**arguments, "avg_num_neighbors": 3.0}}
    save_checkpoint(there, tmp_path / "odd.pth")
    with pytest.raises(KanMdError, match="another potential of the weights of"):
        take_weights(model, arguments, str(tmp_path / "odd.pth"), backbone="allegro")
