"""What a training takes from another model by itself: description, elements, readouts, data."""

import copy
import io
import json

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from kan_md.backbones.build import build_model, sites_of
from kan_md.backbones.transfer import freeze_radial_functions, transfer_weights
from kan_md.config import load_config, parse_config
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.extend import extend
from kan_md.model.graph import edge_graph
from kan_md.model.readout_exchange import exchange_readouts
from kan_md.model.reference import evaluate, model_input
from kan_md.train.run import train

TYPES = ("Cu", "Au")
MLP = {"kind": "mlp", "hidden": [5]}
STILL = {"epochs": 1, "optimizer": {"name": "sgd", "lr": 1e-30}, "batch_size": 2}
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": [*TYPES]}
CUTOFFS = {"Cu": 3.2, "Au": {"Cu": 3.5, "Au": 4.0}}
EXTENDED = {
    "allegro": ("allegro", {"pair_potential": ZBL, "per_edge_type_cutoff": CUTOFFS}),
    "nequip": ("nequip", {"avg_num_neighbors": {"Cu": 12.0, "Au": 18.0}}),
    "mace": ("mace", {"pair_repulsion": True, "distance_transform": "Agnesi"}),
    "mace, densities": (
        "mace",
        {
            "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
            "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
            "readout": {"per_type": True},
        },
    ),
    "mace, non-linear": (
        "mace",
        {"interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock"},
    ),
}


def labelled(atoms):
    atoms.calc = EMT()
    labels = {name: getattr(atoms, f"get_{name}")() for name in ("forces", "stress")}
    labels["energy"] = atoms.get_potential_energy()
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


@pytest.fixture(scope="module")
def with_silver(tmp_path_factory, alloy_frames):
    """The alloy with a few atoms of silver in it."""
    frames = []
    for number, atoms in enumerate(alloy_frames):
        copied = atoms.copy()
        copied.symbols[number % 4 :: 4] = "Ag"
        frames.append(labelled(copied))
    path = tmp_path_factory.mktemp("silver") / "silver.xyz"
    ase.io.write(path, frames)
    return path


def begin(content, folder):
    """Train without moving weights; the model and what was said."""
    screen = Console(file=io.StringIO(), width=1000)
    train(parse_config(content), folder, console=screen)
    return load_checkpoint(folder / "model.pth"), screen.file.getvalue()


def content(structures, source, **sections):
    training = {**STILL, "init_from": str(source), **sections.pop("training", {})}
    return {
        "data": {"train": str(structures), **sections.pop("data", {})},
        "training": training,
    } | sections


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_init_from_alone_is_the_whole_model(tiny_checkpoint, alloy_file, tmp_path, backbone):
    path = tiny_checkpoint(backbone, type_names=TYPES)
    there = load_checkpoint(path)
    config = parse_config(content(alloy_file, path))
    assert config.model.backbone == backbone
    assert config.model.r_max == there.r_max
    assert config.model.dtype == "float64"
    assert config.readout.architecture == there.readout
    here, said = begin(content(alloy_file, path), tmp_path / "run")
    assert here.type_names == there.type_names
    assert "fresh, being others" not in said
    atoms = ase.io.read(alloy_file, 0)
    ours, theirs = (evaluate(model.build(), atoms)["energy"] for model in (here, there))
    assert float(ours) == pytest.approx(float(theirs), abs=1e-9)
    # What the run keeps says all of it, so that it can be resumed without the source.
    assert load_config(tmp_path / "run" / "config.yaml").model == config.model


def test_keys_that_are_given_count_by_either_name(tiny_checkpoint, alloy_file):
    path = tiny_checkpoint("mace", type_names=TYPES)
    given = {"num_layers": 2, "num_scalar_features": 4, "num_tensor_features": 4}
    config = parse_config(content(alloy_file, path, model=given))
    assert config.model.hyperparameters["num_layers"] == 2
    assert "num_interactions" not in config.model.hyperparameters
    assert "hidden_irreps" not in config.model.hyperparameters
    assert config.model.hyperparameters["radial_MLP"] == [8]
    other = parse_config(content(alloy_file, path, readout="linear"))
    assert "MLP_irreps" not in other.model.hyperparameters
    with pytest.raises(KanMdError, match="model file not found"):
        parse_config(content(alloy_file, path.with_name("none.pth")))


@pytest.mark.parametrize("name", EXTENDED)
def test_new_elements_leave_the_others_as_they_were(tiny_checkpoint, alloy_frames, name):
    backbone, keywords = EXTENDED[name]
    there = load_checkpoint(tiny_checkpoint(backbone, type_names=TYPES, **keywords))
    here = extend(there, ["Cu", "Ag", "Ni"])
    assert here.type_names == ["Cu", "Au", "Ag", "Ni"]
    assert here.untrained_types == ["Ag", "Ni"]
    ours, theirs = here.build(), there.build()
    for atoms in alloy_frames[:2]:
        mine, old = evaluate(ours, atoms), evaluate(theirs, atoms)
        torch.testing.assert_close(mine["energy"], old["energy"], rtol=0, atol=1e-9)
        torch.testing.assert_close(mine["forces"], old["forces"], rtol=0, atol=1e-9)
    # A new element is the mean of the others, so that two new ones are the same element where the
    # atomic number plays no part.
    if name == "nequip":
        silver, nickel = (alloy_frames[0].copy() for _ in range(2))
        silver.symbols[:], nickel.symbols[:] = "Ag", "Ni"
        energies = [float(evaluate(ours, atoms)["energy"]) for atoms in (silver, nickel)]
        assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def test_average_of_equal_elements_is_that_element(tiny_checkpoint, alloy_frames):
    """With both elements' weights alike, a third one has the same energies."""
    there = load_checkpoint(tiny_checkpoint("nequip", type_names=TYPES))
    for name, value in there.state_dict.items():
        if name.endswith(("embed_module.weight", ".shifts")):
            value[..., 1:] = value[..., :1] if value.dim() == 1 else value[..., 1:]
            if name.endswith("embed_module.weight"):
                value[1] = value[0]
    there.config["model"]["per_type_energy_shifts"] = dict.fromkeys(TYPES, -1.0)
    (shifts,) = (v for n, v in there.state_dict.items() if n.endswith(".shifts"))
    shifts.fill_(-1.0)
    model = extend(there, ["Ag"]).build()
    silver = alloy_frames[0].copy()
    silver.symbols[:] = "Ag"
    expected = float(evaluate(model, alloy_frames[0])["energy"])
    assert float(evaluate(model, silver)["energy"]) == pytest.approx(expected, abs=1e-9)


def test_elements_of_the_data_are_added_with_references_of_their_own(
    tiny_checkpoint, with_silver, tmp_path
):
    path = tiny_checkpoint("allegro", type_names=TYPES)
    here, said = begin(content(with_silver, path), tmp_path / "run")
    assert here.type_names == ["Cu", "Au", "Ag"]
    assert here.untrained_types == []
    assert "Ag: not there, start from the average of Cu, Au" in said
    shifts = here.config["model"]["per_type_energy_shifts"]
    there = load_checkpoint(path).config["model"]["per_type_energy_shifts"]
    assert {name: shifts[name] for name in TYPES} == there
    # Least squares over the silver alone, with the others' energies held.
    frames = ase.io.read(with_silver, ":")
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())["structures"]["train"]
    assert trained < len(frames)
    (state,) = (v for n, v in here.state_dict.items() if n.endswith(".shifts"))
    assert state.flatten().tolist() == pytest.approx(list(shifts.values()))
    assert shifts["Ag"] != pytest.approx(np.mean(list(there.values())))


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_kan_starts_as_the_function_of_the_readout_before(
    tiny_checkpoint, alloy_frames, alloy_file, tmp_path, backbone
):
    linear = tiny_checkpoint(backbone, type_names=TYPES, readout="linear")
    readout = {"kind": "kan", "basis": "bspline", "num_basis": 6}
    here, said = begin(content(alloy_file, linear, readout=readout), tmp_path / "run")
    assert "as the function there, by least squares: R² 1.0000" in said
    assert "fresh, being others" not in said
    there = load_checkpoint(linear)
    for atoms in alloy_frames:  # a linear map is a KAN, whatever it was fitted to
        ours, theirs = evaluate(here.build(), atoms), evaluate(there.build(), atoms)
        size = float((theirs["energy"] - len(atoms) * -1.5).abs())
        assert float((ours["energy"] - theirs["energy"]).abs()) < 1e-4 * size
    fresh = content(alloy_file, linear, readout=readout, training={"fresh_readout": True})
    _, said = begin(fresh, tmp_path / "fresh")
    assert "by least squares" not in said


def test_exchanged_readout_is_close_to_the_one_before_on_what_it_was_fitted_to(
    tiny_checkpoint, alloy_frames
):
    there = load_checkpoint(tiny_checkpoint("nequip", type_names=TYPES, readout=MLP))
    arguments = {**there.arguments, "readout": {"kind": "kan"}, "seed": 5}
    old, new = there.build(), build_model("nequip", **arguments)
    transfer_weights(new, old, backbone="nequip")
    generator = torch.Generator().manual_seed(0)
    (done,) = exchange_readouts(new, old, alloy_frames, backbone="nequip", generator=generator)
    rows = []
    (slot,) = sites_of(old, "nequip")["output"]
    handle = slot.function.register_forward_pre_hook(lambda _, x: rows.append(x[0].detach()))
    for atoms in alloy_frames:
        old.model.func(model_input(atoms, there.r_max, TYPES))
    handle.remove()
    features = torch.cat(rows)
    (own,) = sites_of(new, "nequip")["output"]
    with torch.no_grad():
        targets = slot.function(features)
        error = (own.function(features) - targets).square().mean().sqrt()
    assert done.fit.num_samples <= len(features)
    assert error < 0.2 * targets.std()


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_radial_functions_stay_where_they_are_frozen(tiny_checkpoint, backbone):
    model = load_checkpoint(tiny_checkpoint(backbone, type_names=TYPES)).build()
    kept = set(freeze_radial_functions(model, backbone=backbone))
    frozen = {name for name, _ in model.named_parameters()} - kept
    assert kept
    assert frozen
    # What is frozen changes nothing but functions of a pair: a lone atom's energy is that before,
    # and every frozen weight counts for a pair.
    atoms = ase.Atoms("CuAu", [[0, 0, 0], [0, 0, 2.4]])
    graph = edge_graph(atoms, 4.0, TYPES)
    assert len(graph.edge_vectors) == 2
    before = float(evaluate(model, atoms)["energy"])
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.data.add_(0.3)
    assert float(evaluate(model, atoms)["energy"]) != pytest.approx(before, abs=1e-9)


def test_structures_of_the_old_training_join_the_new_one(
    tiny_checkpoint, alloy_file, with_silver, tmp_path
):
    path = tiny_checkpoint("allegro", type_names=TYPES)
    data = {"replay": str(alloy_file), "replay_size": 0.25}
    _, said = begin(content(with_silver, path, data=data), tmp_path / "run")
    assert "3 of 12 structures join the training set" in said
    counts = json.loads((tmp_path / "run" / "metrics.json").read_text())["structures"]
    begin(content(with_silver, path), tmp_path / "alone")
    before = json.loads((tmp_path / "alone" / "metrics.json").read_text())["structures"]
    assert counts["train"] == before["train"] + 3
    assert counts["val"] == before["val"]
    kept = load_config(tmp_path / "run" / "config.yaml").data
    assert kept.replay == [alloy_file]
    assert kept.replay_size == 0.25


def test_what_cannot_be_extended_is_named(tiny_checkpoint, tmp_path):
    keywords = {"num_interactions": 1, "readout": {"per_type": True}}
    there = load_checkpoint(tiny_checkpoint("mace", type_names=TYPES, **keywords))
    odd = copy.deepcopy(there)
    (name, *_) = (n for n in odd.state_dict if ".kans.1." in n and "grid" in n)
    odd.state_dict[name] = odd.state_dict[name] + 0.5
    save_checkpoint(odd, tmp_path / "odd.pth")
    with pytest.raises(KanMdError, match="functions on grids of their own"):
        extend(load_checkpoint(tmp_path / "odd.pth"), ["Ag"])
