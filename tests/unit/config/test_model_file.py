"""Files that describe a model: a whole configuration says the same as one model's keys."""

import json

import pytest
import yaml

from kan_md.cli.main import main
from kan_md.config.model_file import read_model_file
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint

MODEL = {"backbone": "mace", "r_max": 3.2, "num_layers": 1, "l_max": 1, "num_scalar_features": 4}
FAST = {"correlation": 1, "radial_MLP": [4]}
CONFIG = {
    "data": {"train": "nowhere.xyz"},
    "model": {**MODEL, **FAST, "dtype": "float64"},
    "readout": {"kind": "mlp", "hidden": [9]},
    "training": {"epochs": 1, "seed": 5},
}
KEYS = {**CONFIG["model"], "readout": CONFIG["readout"], "seed": 5}


def test_configuration_and_keys_make_the_same_model(tmp_path, ag_frames, capsys):
    ag_frames[0].write(tmp_path / "ag.xyz")
    paths = []
    for name, content in (("config", CONFIG), ("keys", KEYS)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        paths.append(tmp_path / f"{name}.pth")
        with pytest.raises(SystemExit) as status:
            main(
                [
                    *("init", str(tmp_path / f"{name}.yaml"), "-o", str(paths[-1])),
                    *("--structure", str(tmp_path / "ag.xyz")),
                    *(["--json"] if name == "keys" else []),
                ]
            )
        assert status.value.code == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "  output, layer 1: mlp 4-9-1, 45 parameters"
    first, second = (load_checkpoint(path) for path in paths)
    assert json.loads(said[-1])["readouts"] == first.readouts == second.readouts
    assert first.config["model"]["num_interactions"] == 1 and first.dtype == "float64"
    assert all((first.state_dict[name] == value).all() for name, value in second.state_dict.items())


def test_statistics_are_taken_where_they_are_given():
    shifts = {"Ag": -1.0}
    given = {"avg_num_neighbors": 12.0, "per_type_energy_shifts": shifts, "type_names": ["Ag"]}
    found = read_model_file({**CONFIG, "model": {**CONFIG["model"], **given}}).arguments
    assert {name: found[name] for name in given} == given
    without = read_model_file({"model": CONFIG["model"]})
    assert not given.keys() & without.arguments.keys()
    assert without.seed is None
    tensors = read_model_file(
        {"model": {"backbone": "etgnn", "r_max": 4.0}, "targets": [{"name": "bec"}]}
    ).arguments["tensors"]
    assert [spec["name"] for spec in tensors] == ["bec"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"r_max": 3.0}, "model needs a backbone, got None; allowed: allegro"),
        ({"backbone": "painn"}, "got painn"),
        ({"backbone": ["mace"]}, r"got \['mace'\]"),
        ({**KEYS, "model_dtype": "float32"}, "dtype and model_dtype say the same"),
        ({"model": {**MODEL, "num_interactions": 2}}, "leave out model.num_layers"),
        ({"model": {**MODEL, "l_mx": 2}}, "model.l_mx"),
        ({"model": MODEL, "readout": {"kind": "linear", "hidden": [2]}}, "readout.hidden has no"),
        ({"model": MODEL, "raedout": {}}, "did you mean readout?"),
    ],
)
def test_wrong_files_are_one_line(content, said):
    with pytest.raises(KanMdError, match=said):
        read_model_file(content)
