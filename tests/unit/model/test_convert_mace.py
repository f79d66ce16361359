"""Conversion of pickled MACE models, against mace-torch's own energies."""

import pickle

import e3nn
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import chemical_symbols
from ase.io import write
from e3nn.util.codegen import CodeGenMixin
from typer.testing import CliRunner

from kan_md.backbones import sites_of
from kan_md.backbones.mace import WEIGHTS_ONLY_OVERRIDE
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.backbones.weights import WeightsDoNotFitError, load_weights
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.conversion import made_up_structures
from kan_md.model.convert_mace import _mace_input, convert_mace
from kan_md.model.random_structures import random_structures
from kan_md.model.reference import evaluate


@pytest.fixture(scope="session")
def structures() -> list[Atoms]:
    return random_structures(["O", "Si"], 3, rng=np.random.default_rng(7))


@pytest.fixture(scope="session")
def mace_file(mace_torch_model, tmp_path_factory):
    """A pickled ScaleShiftMACE of oxygen and silicon."""
    from e3nn import o3

    path = tmp_path_factory.mktemp("mace") / "foo.model"
    torch.save(mace_torch_model([8, 14], hidden_irreps=o3.Irreps("8x0e + 8x1o")), path)
    return path


def mace_energy(model, atoms: Atoms, **extra) -> float:
    return float(model({**_mace_input(model, atoms), **extra})["energy"].detach())


def test_converted_model_has_the_energies_of_mace_torch(mace_file, structures, tmp_path):
    result = convert_mace(mace_file, trust=True, structures=structures)
    model = load_checkpoint(save_checkpoint(result.checkpoint, tmp_path / "model.pth")).build()
    original = torch.load(mace_file, weights_only=False)
    for atoms in [*structures, molecule("SiO"), Atoms("O")]:
        energy = float(evaluate(model, atoms)["energy"])
        assert energy == pytest.approx(mace_energy(original, atoms), abs=1e-9)
    assert result.energy_error < 1e-9
    assert len(result.checkpoint.reference_frames) == 3


def test_float32_model_stays_float32(mace_torch_model, structures, tmp_path):
    torch.save(mace_torch_model([8, 14]).float(), tmp_path / "foo.model")
    result = convert_mace(tmp_path / "foo.model", trust=True, structures=structures)
    assert result.energy_error < 1e-6
    assert result.checkpoint.dtype == "float32"
    weights = [value for name, value in result.checkpoint.state_dict.items() if "layer" in name]
    assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "dtype", "changes"),
    [
        # l of the features, correlation, number of interactions, parts of the architecture
        ("MACE", "float64", {"hidden_irreps": "4x0e", "correlation": 1, "num_interactions": 1}),
        ("MACE", "float64", {"hidden_irreps": "4x0e + 4x1o", "correlation": 3}),
        ("ScaleShiftMACE", "float64", {"hidden_irreps": "4x0e + 4x1o + 4x2e", "correlation": 1}),
        ("ScaleShiftMACE", "float64", {"hidden_irreps": "4x0e + 4x2e", "num_interactions": 1}),
        ("ScaleShiftMACE", "float32", {"hidden_irreps": "4x0e", "correlation": 3}),
        ("ScaleShiftMACE", "float32", {"hidden_irreps": "4x0e + 4x1o", "num_interactions": 1}),
        ("MACE", "float64", {"pair_repulsion": True, "distance_transform": "Agnesi"}),
        ("ScaleShiftMACE", "float32", {"pair_repulsion": True, "distance_transform": "Soft"}),
        ("MACE", "float64", {"interaction_cls": "RealAgnosticAttResidualInteractionBlock"}),
        ("MACE", "float64", {"interaction_cls_first": "RealAgnosticAttResidualInteractionBlock"}),
        ("MACE", "float32", {"interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock"}),
    ],
)
def test_converted_model_is_what_maces_own_calculator_says(
    mace_torch_model, structures, tmp_path, monkeypatch, kind, dtype, changes
):
    from e3nn import o3

    monkeypatch.setenv(WEIGHTS_ONLY_OVERRIDE, "0")  # which the import changes
    from mace.calculators import MACECalculator
    from mace.modules import interaction_classes

    makers = {"hidden_irreps": o3.Irreps, "interaction": interaction_classes.get}
    arguments = {
        name: next((f(value) for start, f in makers.items() if name.startswith(start)), value)
        for name, value in changes.items()
    }
    path = tmp_path / "foo.model"
    torch.save(mace_torch_model([8, 14], kind=kind, **arguments).to(getattr(torch, dtype)), path)
    checkpoint = convert_mace(path, trust=True, structures=structures).checkpoint
    assert checkpoint.dtype == dtype
    original = torch.load(path, weights_only=False)
    with nequip_settings():  # the calculator changes the default dtype
        calculator = MACECalculator(models=[original], device="cpu", default_dtype="float64")
        for atoms in (structures[0], dimer()):
            atoms = atoms.copy()
            atoms.calc = calculator
            ours = evaluate(checkpoint.build("float64"), atoms)
            assert float(ours["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            np.testing.assert_allclose(ours["forces"].numpy(), atoms.get_forces(), atol=1e-6)


def dimer() -> Atoms:
    """Closer than the sum of the covalent radii, where a repulsion acts."""
    return Atoms("SiO", [[0.0, 0.0, 0.0], [0.3, 0.1, 1.2]])


def test_constants_of_generated_code_are_no_weights(mace_torch_model, structures, tmp_path):
    """e3nn's code is traced again when it is unpickled, and then holds other constants."""
    from e3nn import o3

    wide = {"hidden_irreps": o3.Irreps("16x0e + 16x1o"), "max_ell": 3, "correlation": 1}
    torch.save(mace_torch_model([8, 14], **wide), tmp_path / "once.model")
    again = torch.load(tmp_path / "once.model", weights_only=False)
    torch.save(again, tmp_path / "twice.model")
    (constant,) = (name for name in again.state_dict() if "_tensor_constant" in name)
    result = convert_mace(tmp_path / "twice.model", trust=True, structures=structures)
    assert result.energy_error < 1e-9
    assert result.force_error < 1e-9
    # A model.pth with such a constant, and one without the other constants, are whole.
    checkpoint, frame = result.checkpoint, result.checkpoint.reference_frames[0]
    kept = {name: v for name, v in checkpoint.state_dict.items() if "_w3j" not in name}
    assert len(kept) < len(checkpoint.state_dict)
    place = next(name for name in checkpoint.state_dict if "_w3j" in name).rsplit(".", 1)[0]
    checkpoint.state_dict = kept | {f"{place}._tensor_constant0": again.state_dict()[constant]}
    energy = evaluate(checkpoint.build(), structures[0])["energy"]
    assert float(energy) == pytest.approx(float(frame["energy"]), abs=1e-9)


def test_missing_weight_is_named(mace_torch_model):
    source, target = (mace_torch_model([8, 14]).interactions[1] for _ in range(2))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = source.state_dict()
    del state["linear.weight"]
    with pytest.raises(WeightsDoNotFitError, match=r"no linear\.weight$"):
        load_weights(target, state)
    state = source.state_dict() | {"gate.weight": torch.ones(3)}
    with pytest.raises(WeightsDoNotFitError, match=r"gate\.weight \[3\] for no place"):
        load_weights(target, state)
    state = source.state_dict() | {"linear.weight": torch.ones(3)}
    with pytest.raises(WeightsDoNotFitError, match=r"linear\.weight \[3\] for \[112\]"):
        load_weights(target, state)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_kan_takes_over_the_old_readout(mace_file, structures):
    result = convert_mace(mace_file, trust=True, readout="kan")
    assert result.fit.r_squared > 0.95
    model = result.checkpoint.build()
    original = torch.load(mace_file, weights_only=False)
    errors, energies = [], []
    for atoms in structures:  # other ones than those that it was fitted to
        energies.append(mace_energy(original, atoms) / len(atoms))
        errors.append(float(evaluate(model, atoms)["energy"]) / len(atoms) - energies[-1])
    assert np.abs(errors).max() < 0.1 * np.ptp(energies)
    first, last = (slot.function for slot in sites_of(model, "mace")["output"])
    assert not first.layers[0].coefficients.any()
    assert last.layers[0].coefficients.any()


def test_linear_readout_moves_nothing_but_the_last_readout(mace_torch_model, structures, tmp_path):
    # One layer: upstream's only readout is linear, and a KAN holds a linear map up to its tails.
    path = tmp_path / "one.model"
    torch.save(mace_torch_model([8, 14], num_interactions=1), path)
    readout = {"kind": "kan", "basis": "bspline"}
    result = convert_mace(path, trust=True, readout=readout, structures=structures)
    assert result.fit.r_squared > 1.0 - 1e-12
    assert result.readout_energy_error < 1e-8
    for key, value in (("per_type", True), ("projection", 2)):  # a fit is to plain functions
        with pytest.raises(KanMdError, match="readout without projection and per_type"):
            convert_mace(path, trust=True, readout=readout | {key: value}, structures=structures)


def test_chosen_head_of_several(mace_torch_model, structures, tmp_path):
    model = mace_torch_model(
        [8, 14],
        heads=["first", "second"],
        atomic_energies=np.array([[-1.0, -2.0], [-3.0, -5.0]]),
        atomic_inter_scale=[0.5, 1.5],
        atomic_inter_shift=[0.0, 0.25],
    )
    path = tmp_path / "two.model"
    torch.save(model, path)
    for head, index in (("first", 0), ("second", 1)):
        checkpoint = convert_mace(path, trust=True, head=head, structures=structures).checkpoint
        theirs = mace_energy(model, structures[0], head=torch.tensor([index]))
        ours = float(evaluate(checkpoint.build(), structures[0])["energy"])
        assert ours == pytest.approx(theirs, abs=1e-8)
    with pytest.raises(KanMdError, match=r"several heads, got first, second; .*--head"):
        convert_mace(path, trust=True)
    with pytest.raises(KanMdError, match="head of the MACE model, got 'third'; allowed: first"):
        convert_mace(path, trust=True, head="third")


def test_files_of_older_e3nn_are_read(mace_torch_model, structures, tmp_path, monkeypatch):
    # e3nn 0.4 pickled generated code as TorchScript bytes without a word on their kind, and knew
    # neither Activation.paths nor SphericalHarmonics.sph_func.
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_mode="script", jit_script_fx=True)
    try:
        model = mace_torch_model([8, 14])
    finally:
        e3nn.set_optimization_defaults(**before)
    energy = mace_energy(model, structures[0])
    present = CodeGenMixin.__getstate__

    def as_of_old(self: CodeGenMixin) -> dict:
        state = present(self)
        code = state.get("__codegen__", {})
        assert all(kind == "torchscript" for kind, _ in code.values())
        return {**state, "__codegen__": {name: value for name, (_, value) in code.items()}}

    for module in model.modules():
        module.__dict__.pop("paths", None)
        module.__dict__.pop("sph_func", None)
    with monkeypatch.context() as patch:
        patch.setattr(CodeGenMixin, "__getstate__", as_of_old)
        torch.save(model, tmp_path / "old.model")
    with pytest.raises(ValueError, match="too many values"):
        torch.load(tmp_path / "old.model", weights_only=False)
    result = convert_mace(tmp_path / "old.model", trust=True, structures=structures)
    ours = float(evaluate(result.checkpoint.build(), structures[0])["energy"])
    assert ours == pytest.approx(energy, abs=1e-9)


def test_nothing_is_unpickled_without_consent(tmp_path):
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    path = tmp_path / "trap.model"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(KanMdError, match=r"opening it runs the code in it.*add --trust"):
        convert_mace(path, trust=False)
    assert not marker.exists()


def _compiled(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_compiled, r"got a compiled file \(of mace_create_lammps_model"),
        (lambda path: path.write_text("hello"), "no model that can be converted, got a text file"),
        (lambda path: torch.save(torch.nn.Linear(1, 1), path), "not a MACE model, got Linear"),
        (lambda path: torch.save({"a": 1}, path), "not a MACE model, got dict"),
    ],
)
def test_other_files_are_named(tmp_path, spoil, message):
    spoil(tmp_path / "foo.model")
    with pytest.raises(KanMdError, match=message) as caught:
        convert_mace(tmp_path / "foo.model", trust=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(KanMdError, match="model file not found"):
        convert_mace(tmp_path / "none.model", trust=True)


def test_command_line_writes_the_model_and_a_report(mace_file, structures, tmp_path):
    import json

    import typer

    from kan_md.cli.convert import register

    app = typer.Typer()
    register(app)
    output = tmp_path / "out.pth"
    data = tmp_path / "data.xyz"
    write(data, structures)
    arguments = [str(mace_file), "--trust", "--data", str(data), "-o", str(output), "--json"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["types"] == ["O", "Si"]
    assert report["energy_error_eV"] < 1e-6
    assert load_checkpoint(output).backbone == "mace"


def test_report_names_the_errors():
    from kan_md.cli.convert import _rows

    summary = {"output": "out.pth", "types": ["O", "Si"], "num_structures": 3}
    summary |= {"compared_with": "nequip 0.19.1", "weights": "", "note": "made with nequip 0.7.1"}
    summary |= {"energy_error_eV": 2e-9, "force_error_eV_per_A": 3e-9}
    fit = {"fit_r_squared": 0.9987, "fitted_atoms": 640, "kan_energy_error_eV_per_atom": 1.5e-4}
    rows = dict(_rows(summary | fit))
    assert rows["compared with"] == "nequip 0.19.1 on 3 structures"
    assert rows["note"] == "made with nequip 0.7.1"
    assert rows["largest energy error"] == "2.0e-09 eV"
    assert rows["variance explained"] == "99.870 %"
    assert rows["energy error added"] == "0.150 meV/atom"


@pytest.mark.parametrize("count", [1, 2, 30, 89])
def test_made_up_structures_hold_all_elements_and_two_crystals(count):
    names = chemical_symbols[1 : count + 1]
    frames = made_up_structures(names, 5.0, rng=np.random.default_rng(0))
    assert [bool(atoms.pbc.all()) for atoms in frames[:3]] == [True, True, False]
    clusters = frames[2:]
    assert set(names) == {symbol for atoms in clusters for symbol in atoms.symbols}
    assert all(len(atoms) <= 24 for atoms in clusters)
    assert len(frames) <= 2 + -(-count // 24)  # no more than it takes: each costs upstream's speed
