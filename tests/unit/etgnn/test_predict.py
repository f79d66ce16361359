"""``kan-md predict`` and the ASE calculator of tensors, from both kinds of file."""

import json

import ase.io
import numpy as np
import pytest
import typer
from etgnn_support import write_checkpoint
from typer.testing import CliRunner

from kan_md import TensorCalculator
from kan_md.cli import predict as command
from kan_md_deploy import deploy


@pytest.fixture(scope="module")
def files(build, crystal, tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "model.pth"
    write_checkpoint(build, crystal, path, tensors=[{"name": "bec"}], readout="linear")
    return {"trained": path, "deployed": deploy(path)}


@pytest.mark.parametrize("kind", ["trained", "deployed"])
def test_predictions_are_written_beside_the_structures(files, kind, crystal, tmp_path):
    ase.io.write(tmp_path / "in.xyz", [crystal, crystal.repeat((2, 1, 1))])
    app = typer.Typer()
    command.register(app)
    output = tmp_path / "out.xyz"
    arguments = [str(files[kind]), str(tmp_path / "in.xyz"), "-o", str(output), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tensors"] == ["kan_bec"]
    written = ase.io.read(output, ":")
    atoms = crystal.copy()
    atoms.calc = TensorCalculator(files["trained"])
    expected = atoms.calc.get_property("born_effective_charges", atoms)
    assert expected.shape == (8, 3, 3)
    np.testing.assert_allclose(written[0].arrays["kan_bec"], expected.reshape(8, 9), atol=1e-7)
    np.testing.assert_allclose(
        written[1].arrays["kan_bec"], np.tile(expected.reshape(8, 9), (2, 1)), atol=1e-7
    )
