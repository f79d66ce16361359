"""model.pth: what comes back, and what is said of files that are something else."""

import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from ase import Atoms

from kan_md.backbones.readout import ReadoutConfig
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kan_md.model.elements import elements_of
from kan_md.model.reference import evaluate, frame_atoms
from kan_md.tasks.untrained import make_untrained
from kan_md_deploy.inspect import describe_file


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.fixture
def checkpoint_file(tiny_checkpoint, tmp_path) -> Path:
    """A copy that a test may spoil."""
    path = tmp_path / "model.pth"
    path.write_bytes(tiny_checkpoint("allegro").read_bytes())
    return path


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_model_comes_back_with_the_same_numbers(tiny_checkpoint, backbone):
    checkpoint = load_checkpoint(tiny_checkpoint(backbone))
    assert checkpoint.elements.atomic_numbers == (47,)
    assert checkpoint.elements.masses == pytest.approx((107.8682,))
    model = checkpoint.build()
    assert not model.training
    assert checkpoint.reference_frames
    for frame in checkpoint.reference_frames:
        again = evaluate(model, frame_atoms(frame, checkpoint.type_names))
        for key in ("energy", "forces", "virial", "atomic_energy"):
            torch.testing.assert_close(again[key], frame[key], rtol=0, atol=1e-10)


def test_everything_written_is_read_again(checkpoint_file, tmp_path):
    first = load_checkpoint(checkpoint_file)
    first.statistics = {"min_distances": [2.5], "energies": torch.tensor([1.0, float("nan")])}
    first.training_summary = {"epochs": 3, "note": "été", "done": True, "left": None}
    second = load_checkpoint(save_checkpoint(first, tmp_path / "again.pth"))
    first.statistics["energies"] = second.statistics["energies"] = None  # NaN equals nothing
    for field in fields(Checkpoint):
        assert same(getattr(first, field.name), getattr(second, field.name)), field.name


def test_other_dtype_is_a_choice_at_build_time(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint("nequip"))
    assert checkpoint.dtype == "float64"
    model = checkpoint.build(dtype="float32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    frame = checkpoint.reference_frames[0]
    again = evaluate(model, frame_atoms(frame, checkpoint.type_names))
    torch.testing.assert_close(again["forces"], frame["forces"], rtol=0, atol=1e-3)


def test_file_loads_with_weights_only_and_older_one_survives(checkpoint_file, files_up_to):
    content = torch.load(checkpoint_file, weights_only=True)
    assert {"format_version", "backbone", "config", "type_names", "r_max"} <= content.keys()
    before = checkpoint_file.read_bytes()
    checkpoint = load_checkpoint(checkpoint_file)

    with (
        files_up_to(1000),
        pytest.raises(KanMdError, match=r"cannot write .*model.pth, got a file beyond the limit"),
    ):
        save_checkpoint(checkpoint, checkpoint_file)
    assert checkpoint_file.read_bytes() == before
    assert [file.name for file in checkpoint_file.parent.iterdir()] == ["model.pth"]


def test_output_in_a_missing_folder_is_refused(checkpoint_file, tmp_path):
    checkpoint = load_checkpoint(checkpoint_file)
    with pytest.raises(KanMdError, match=r"cannot write .*no/model.pth, got no such folder; make"):
        save_checkpoint(checkpoint, tmp_path / "no" / "model.pth")
    assert not (tmp_path / "no").exists()


def test_output_that_is_a_folder_is_refused(checkpoint_file, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(KanMdError, match=r"cannot write .*folder, got a folder of that name"):
        save_checkpoint(load_checkpoint(checkpoint_file), tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "model.pth"]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(KanMdError, match=r"model file not found, got .*none.pth"):
        load_checkpoint(tmp_path / "none.pth")


class Stranger:
    """A class that a weights-only load must not unpickle."""


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def _compile(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def _flip_weight(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    max(content["state_dict"].values(), key=torch.numel).view(-1)[:1] += 1e-6
    torch.save(content, path)


def _flip_byte(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + 400] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncate, "a truncated file; copy it again"),
        (lambda path: path.write_text("pair_style allegro\n"), "no torch file"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (_compile, r"a compiled \(TorchScript\) file; give the model.pth"),
        (_flip_weight, "does not match its digest"),
        (_flip_byte, "damaged content"),
        (lambda path: torch.save(Stranger(), path), "a file with pickled code"),
        (lambda path: torch.save([1, 2], path), "a saved list"),
        (lambda path: torch.save({"epoch": 1}, path), "missing or unknown entries"),
        (
            lambda path: torch.save({"pytorch-lightning_version": "2.6"}, path),
            "a Lightning training checkpoint",
        ),
    ],
)
def test_file_that_is_no_checkpoint_is_recognised(checkpoint_file, spoil, message):
    spoil(checkpoint_file)
    with pytest.raises(KanMdError, match=message) as caught:
        load_checkpoint(checkpoint_file)
    assert "\n" not in str(caught.value)


def test_later_format_is_named(checkpoint_file):
    content = torch.load(checkpoint_file, weights_only=True)
    content["format_version"] = 99
    torch.save(content, checkpoint_file)
    with pytest.raises(KanMdError, match=r"format version of .*got 99; allowed: 1"):
        load_checkpoint(checkpoint_file)


def test_weights_of_another_configuration_are_refused(checkpoint_file):
    checkpoint = load_checkpoint(checkpoint_file)
    checkpoint.config["model"]["num_scalar_features"] = 4
    with pytest.raises(KanMdError, match="weights of the checkpoint do not fit"):
        checkpoint.build()


def test_types_that_are_no_elements_need_atomic_numbers(checkpoint_file, tmp_path):
    checkpoint = load_checkpoint(checkpoint_file)
    checkpoint.type_names = ["Ag1"]
    with pytest.raises(KanMdError, match=r"element symbol.*got 'Ag1'.*atomic_numbers"):
        save_checkpoint(checkpoint, tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()
    assert elements_of(["Ag1", "O"], {"Ag1": 47}).atomic_numbers == (47, 8)
    with pytest.raises(KanMdError, match="'X'"):
        elements_of(["X"])


def mace_of_one_layer(readout: dict, structure: Atoms) -> Checkpoint:
    arguments = {
        "r_max": 4.0,
        "num_interactions": 1,
        "hidden_irreps": "5x0e",
        "max_ell": 1,
        "correlation": 2,
        "radial_MLP": [4],
        "model_dtype": "float64",
    }
    return make_untrained("mace", [structure], seed=3, readout=readout, **arguments)


def test_one_layer_mace_mlp_of_before_is_the_linear_map_that_it_was(tmp_path, ag_frames, caplog):
    """What `readout: {kind: mlp, hidden: [16]}` wrote: a linear block under the name of an MLP."""
    old = mace_of_one_layer({"kind": "linear"}, ag_frames[0])
    said = ReadoutConfig(kind="mlp", hidden=(16,)).model_dump(mode="json")
    old.config = {"model": old.config["model"] | {"readout": said}}
    old.training_summary = {"trained": False}
    read = load_checkpoint(save_checkpoint(old, tmp_path / "old.pth"))
    for _ in range(2):
        model = read.build()
    frame = read.reference_frames[0]
    again = evaluate(model, frame_atoms(frame, read.type_names))
    torch.testing.assert_close(again["forces"], frame["forces"], rtol=0, atol=1e-12)
    assert read.readout.kind == "linear"
    assert [(entry["kind"], entry["widths"]) for entry in read.readouts] == [("linear", [5, 1])]
    assert "it is read as readout.kind linear" in read.note
    assert [record.getMessage() for record in caplog.records] == [f"kan-md: note: {read.note}"]
    found = describe_file(tmp_path / "old.pth")
    assert found["readout"]["kind"] == "linear" and found["note"] == read.note


def test_one_layer_mace_mlp_comes_back_as_an_mlp(tmp_path, ag_frames):
    new = mace_of_one_layer({"kind": "mlp", "hidden": [16]}, ag_frames[0])
    read = load_checkpoint(save_checkpoint(new, tmp_path / "new.pth"))
    assert read.note is None
    assert read.training_summary["readouts"] == read.readouts
    assert [entry["widths"] for entry in read.readouts] == [[5, 16, 1]]
    assert describe_file(tmp_path / "new.pth")["readouts"] == read.readouts


def test_keys_in_vain_of_older_files_are_left_out(ag_frames):
    old = mace_of_one_layer({"kind": "linear"}, ag_frames[0])
    in_vain = {"kind": "linear", "hidden": [4], "basis": "bspline", "grid_range": [-1.0, 1.0]}
    old.config = {"model": old.config["model"] | {"readout": in_vain}}
    assert old.readout == ReadoutConfig(kind="linear")
    old.build()
