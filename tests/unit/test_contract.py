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


def test_text_round_trip_keeps_every_bit():
    written = manifest()
    assert Manifest.from_text(written.to_text()) == written


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nonsense", "without '='"),
        ("contract_version=99\n", "got 99"),
        (f"contract_version={CONTRACT_VERSION}\n", "missing or unknown"),
        (manifest().to_text() + "colour=red\n", "'colour'"),
        (manifest().to_text().replace("r_max=5.0", "r_max=wide"), "r_max"),
        (manifest().to_text().replace("tf32=0", "tf32=maybe"), "tf32, got 'maybe'; allowed: bool"),
    ],
)
def test_unreadable_manifest_is_one_line(text, found):
    with pytest.raises(KanMdError, match=found) as error:
        Manifest.from_text(text)
    assert "\n" not in str(error.value)
