"""Errors of tensors against labels made by the model itself, displaced by known amounts."""

import json

import ase.io
import numpy as np
import pytest
from etgnn_support import write_checkpoint
from rich.console import Console

from kan_md.cli.main import main
from kan_md.cli.tables import component_table, error_table
from kan_md.data import read_frames
from kan_md.errors import KanMdError
from kan_md.evaluate.evaluation import evaluate_file
from kan_md.evaluate.models import load_model
from kan_md_deploy import deploy

SHIFT = {"Mg": 0.3, "Na": 0.2, "O": -0.1}  # e, on the component xy only
XY = 1  # column 3*i + j with i = x, the field's axis, and j = y


@pytest.fixture(scope="module")
def models(build, crystal, tmp_path_factory):
    tensors = [{"name": "bec"}, {"name": "gap", "rank": 0, "per": "structure"}]
    path = tmp_path_factory.mktemp("evaluate") / "model.pth"
    write_checkpoint(build, crystal, path, tensors=tensors, readout="linear")
    return {"trained": path, "deployed": deploy(path)}


@pytest.fixture(scope="module")
def shifted_file(models, crystal, tmp_path_factory):
    atoms = crystal.copy()
    found = load_model(models["trained"]).predict(atoms)
    labels = found["bec"].copy()
    labels[:, XY] -= [SHIFT[symbol] for symbol in atoms.symbols]
    atoms.arrays["bec"], atoms.info["gap"] = labels, float(found["gap"][0]) + 0.5
    path = tmp_path_factory.mktemp("data") / "shifted.xyz"
    ase.io.write(path, atoms)
    return path


@pytest.mark.parametrize("kind", ["trained", "deployed"])
def test_errors_are_the_known_shifts(models, shifted_file, kind):
    frames = read_frames(shifted_file)
    errors = evaluate_file(models[kind], frames).errors
    close = {"abs": 1e-6}  # eight decimals in the file
    for symbol, shift in SHIFT.items():
        assert errors[f"bec_{symbol}_xy_mae"] == pytest.approx(abs(shift), **close)
        assert errors[f"bec_{symbol}_yx_mae"] == pytest.approx(0.0, **close)
        assert errors[f"bec_{symbol}_mae"] == pytest.approx(abs(shift) / 9, **close)
    mean = np.mean([abs(SHIFT[symbol]) for symbol in frames[0].symbols])
    assert errors["bec_xy_mae"] == pytest.approx(mean, **close)
    assert errors["bec_mae"] == pytest.approx(mean / 9, **close)
    assert errors["gap_mae"] == pytest.approx(0.5, **close)
    assert "gap_x_mae" not in errors


def test_tables_show_species_and_components_in_the_unit_of_the_label(models, shifted_file):
    result = evaluate_file(models["trained"], read_frames(shifted_file))
    born = next(target for target in result.targets if target.name == "bec")
    console = Console(width=120)
    with console.capture() as capture:
        console.print(error_table({"test": result.errors}, result.targets))
        console.print(component_table(result.errors, born))
    text = capture.get()
    assert "bec Na (e)" in text
    assert "bec Na xy" not in text  # one table for each
    heads = next(line for line in text.splitlines() if "MAE of bec (e)" in line)
    assert [word.strip() for word in heads.split("┃")[2:-1]] == ["all", "Mg", "Na", "O"]
    row = next(line for line in text.splitlines() if "xy" in line)
    assert [word.strip() for word in row.split("│")[3:-1]] == ["0.3", "0.2", "0.1"]


def test_command_writes_predictions_and_parity_plot(models, shifted_file, tmp_path, capsys):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(models["deployed"]), str(shifted_file), "-o", str(output), "--json"])
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["errors"]["bec_Na_xy_mae"] == pytest.approx(0.2, abs=1e-6)
    assert (output / "parity.png").read_bytes()[:4] == b"\x89PNG"
    atoms = ase.io.read(output / "predictions.xyz")
    shift = atoms.arrays["kan_bec"] - atoms.arrays["bec"]
    np.testing.assert_allclose(shift[atoms.symbols == "Na", XY], 0.2, atol=1e-6)


def test_labels_that_do_not_fit_are_told(models, crystal):
    bare = crystal.copy()
    with pytest.raises(
        KanMdError,
        match=r"data without bec, gap, got 1 structures with no labels; label them under",
    ):
        evaluate_file(models["trained"], [bare])
    narrow = crystal.copy()
    narrow.arrays["bec"] = np.ones((len(narrow), 6))
    with pytest.raises(KanMdError, match=r"bec .*got 48 numbers; allowed: 72; correct the file"):
        evaluate_file(models["trained"], [narrow])
    stranger = crystal.copy()
    stranger.symbols[0] = "Xe"
    with pytest.raises(KanMdError, match="got Xe; allowed: Mg, Na, O"):
        evaluate_file(models["trained"], [stranger])
