"""The manifest is written and read by one class; what it cannot read it refuses in one line."""

import pytest

from kan_md.contract import CONTRACT_VERSION, Manifest
from kan_md.errors import KanMdError


def manifest(**changes) -> Manifest:
    values = {
        "kan_md_version": "0.1.0",
        "torch_version": "2.13.0",
        "backend": "torchscript",
        "device": "cpu",
        "dtype": "float64",
        "backbone": "allegro",
        "r_max": 5.0,
        "num_layers": 1,
        "type_names": ("Si", "O"),
        "atomic_numbers": (14, 8),
        "masses": (28.085, 15.999),
        "cutoffs": (5.0, 4.5, 4.5, 3.0),
        "isolated_energies": (-0.1, 1 / 3),
        "min_distances": (0.0, 1.5, 1.5, 2.0),
        "readout": {"kind": "kan", "note": "a=b"},
        "static_shapes": True,
    }
    return Manifest(**(values | changes))


OF_BEFORE = """\
kan_md_version=0.1.0
torch_version=2.13.0
backend=torchscript
device=cpu
dtype=float32
backbone=etgnn
r_max=4.0
num_layers=3
type_names=Mg O
atomic_numbers=12 8
masses=24.305 15.999
cutoffs=4.0 4.0 4.0 4.0
isolated_energies=0.0 0.0
min_distances=0.0 2.1 2.1 0.0
kind=tensor
readout={"kind": "kan"}
passes={"kan_collapse": {"bound": 1e-7, "operator": "kan_md::piecewise_sum"}}
outputs={"num_columns": 9}
energy_error=0.0
force_error=0.0
num_reference_frames=3
static_shapes=0
tf32=0
threads=0
model_sha256=00ff
contract_version=1
"""
"""As it was written before the manifest had a format number."""


def test_text_round_trip_keeps_every_bit():
    for written in (manifest(), manifest(operators=("kan_md::allegro",)), manifest(operators=())):
        assert Manifest.from_text(written.to_text()) == written


def test_manifest_of_before_is_read():
    read = Manifest.from_text(OF_BEFORE)
    assert (read.format_version, read.operators) == (0, None)
    assert (read.kind, read.backbone, read.type_names) == ("tensor", "etgnn", ("Mg", "O"))
    assert read.min_distances == (0.0, 2.1, 2.1, 0.0)
    assert read.passes["kan_collapse"]["operator"] == "kan_md::piecewise_sum"


def test_keys_of_later_are_left_alone():
    assert Manifest.from_text(manifest().to_text() + "colour=red\n") == manifest()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nonsense", "without '='"),
        ("contract_version=99\n", "got 99"),
        (f"contract_version={CONTRACT_VERSION}\n", r"got none of \['atomic_numbers'"),
        (OF_BEFORE + "format_version=2\ntf32=?\n", "got 2; allowed: up to 1; install a newer"),
        (OF_BEFORE + "format_version=one\n", "format_version, got 'one'; allowed: int"),
        (manifest().to_text().replace("r_max=5.0", "r_max=wide"), "r_max"),
        (manifest().to_text().replace("tf32=0", "tf32=maybe"), "tf32, got 'maybe'; allowed: bool"),
    ],
)
def test_unreadable_manifest_is_one_line(text, found):
    with pytest.raises(KanMdError, match=found) as error:
        Manifest.from_text(text)
    assert "\n" not in str(error.value)
