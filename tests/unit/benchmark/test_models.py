"""Which files can be timed, how they are named, and which one is the control."""

import json
import zipfile

import pytest

from kan_md.benchmark.models import (
    Entry,
    baseline_entry,
    deployed_entry,
    find_control,
    split_label,
    with_unique_labels,
)
from kan_md.contract import MANIFEST_KEY, Manifest
from kan_md.errors import KanMdError


def write_model(path, readout=None, **changes):
    """A file that has a manifest and nothing else: enough to plan a run."""
    manifest = Manifest(
        **{
            "kan_md_version": "0",
            "torch_version": "0",
            "backend": "torchscript",
            "device": "cpu",
            "dtype": "float32",
            "backbone": "allegro",
            "r_max": 5.0,
            "num_layers": 1,
            "type_names": ("Cu", "Ag"),
            "atomic_numbers": (29, 47),
            "masses": (63.5, 107.9),
            "cutoffs": (5.0,) * 4,
            "isolated_energies": (0.0, 0.0),
            "min_distances": (0.0,) * 4,
            "readout": readout or {"kind": "kan", "basis": "gaussian"},
            **changes,
        }
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"x/extra/{MANIFEST_KEY}", manifest.to_text())
    return path


def entry(label, **readout):
    manifest = Manifest.__new__(Manifest)
    object.__setattr__(manifest, "readout", readout)
    return Entry(
        label=label, type_names=("Ag",), pair_style="allegro", pair_coeff=label, manifest=manifest
    )


def test_a_deployed_file_knows_its_pair_style_and_readout(tmp_path):
    path = write_model(tmp_path / "a b.deployed.pth")
    found = deployed_entry(str(path))
    assert (found.label, found.pair_style, found.readout) == ("a b", "allegro", "kan gaussian")
    assert found.pair_commands(["Ag"]) == ["pair_style allegro", f'pair_coeff * * "{path}" Ag']


def test_a_label_may_be_given(tmp_path):
    path = write_model(tmp_path / "a.pth")
    assert deployed_entry(f"my model={path}").label == "my model"
    assert split_label("a=b.pth") == ("a", split_label("b.pth")[1])


def test_upstream_files_need_their_pair_style(tmp_path):
    path = tmp_path / "up.nequip.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("up/extra/type_names", "H O")
        archive.writestr("up/extra/r_max", "4.5")
    with pytest.raises(KanMdError, match="set --pair-style"):
        deployed_entry(str(path))
    found = deployed_entry(str(path), pair_style="nequip")
    assert (found.pair_style, found.type_names, found.r_max) == ("nequip", ("H", "O"), 4.5)


@pytest.mark.parametrize("style", ["allegro", "nequip"])
def test_torchscript_files_of_upstream_tell_their_pair_style_by_their_code(tmp_path, style):
    path = tmp_path / "up.nequip.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("up/extra/type_names", "H O")
        archive.writestr("up/extra/r_max", "4.5")
        for package in {"nequip", style}:
            archive.writestr(f"up/code/__torch__/{package}/nn/part.py", "")
    assert deployed_entry(str(path)).pair_style == style


def test_aotinductor_files_of_upstream_are_known(tmp_path):
    """nequip-compile keeps what a file is in AOTInductor's own JSON."""
    path = tmp_path / "up.nequip.pt2"
    said = {"r_max": "4.5", "type_names": "H O", "model_dtype": "float32", "num_types": "2"}
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("wrapper", "kernel"):
            archive.writestr(
                f"up/data/aotinductor/model/c.{part}_metadata.json",
                json.dumps(said | {"AOTI_DEVICE_KEY": "cpu"}),
            )
    found = deployed_entry(str(path), pair_style="allegro")
    assert (found.type_names, found.r_max) == (("H", "O"), 4.5)
    assert (found.dtype, found.backend) == ("float32", "aotinductor")


def test_files_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(KanMdError, match="must exist"):
        deployed_entry(str(tmp_path / "missing.pth"))
    text = tmp_path / "text.pth"
    text.write_text("hello")
    with pytest.raises(KanMdError, match="must be a compiled model"):
        deployed_entry(str(text))
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(KanMdError, match="a zip archive of something else"):
        deployed_entry(str(tmp_path / "other.pth"))
    tensor = write_model(tmp_path / "tensor.pth", kind="tensor", backbone="etgnn")
    with pytest.raises(KanMdError, match="only potentials"):
        deployed_entry(str(tensor))


def test_the_control_is_found_by_label_or_readout():
    rows = [
        entry("a", kind="kan", basis="gaussian"),
        entry("b", kind="kan", basis="bspline"),
        entry("c", kind="mlp"),
    ]
    assert find_control(rows, "b").label == "b"
    assert find_control(rows, "mlp").label == "c"
    assert find_control(rows, "kan bspline").label == "b"


@pytest.mark.parametrize("name", ["kan", "linear", ""])
def test_a_control_that_is_not_one_row_is_refused(name):
    rows = [entry("a", kind="kan", basis="gaussian"), entry("b", kind="kan", basis="bspline")]
    with pytest.raises(KanMdError, match="exactly one"):
        find_control(rows, name)


def test_equal_labels_are_numbered():
    rows = with_unique_labels([entry("a"), entry("b"), entry("a")])
    assert [row.label for row in rows] == ["a #1", "b", "a #2"]


def test_baseline_cutoff_is_read_from_the_potential():
    # Foiles, Baskes and Daw 1986, as in LAMMPS' Ag_u3.eam: 5.55 Å
    assert baseline_entry("eam").r_max == pytest.approx(5.55)
    with pytest.raises(KanMdError, match="allowed: eam"):
        baseline_entry("lj")
