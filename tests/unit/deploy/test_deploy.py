"""The deploy step from model.pth to a file: contract, manifest, seal, and mistakes in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.potential_deviation import Deviation, check, deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy import deploy, load_deployed
from kan_md_deploy.archive import read_manifest, sha256_of
from kan_md_deploy.judged_graphs import reference_graphs


def test_float32_file_is_within_its_tolerance_of_float64(tiny_checkpoint, deployed):
    path = deployed("allegro", deploy={"dtype": "float32"}, type_names=("Cu", "Au"))
    model = load_deployed(path)
    assert model.manifest.dtype == "float32"
    assert set(model.manifest.passes) == {"centre_factored", "radial_tables", "kan_collapse"}
    checkpoint = load_checkpoint(tiny_checkpoint("allegro", type_names=("Cu", "Au")))
    exact = make_edge_model(checkpoint.build("float64"))
    found = deviation(model, exact, reference_graphs(checkpoint))
    assert found.force < 1e-5
    assert found.force == pytest.approx(model.manifest.force_error, rel=0.5)


def test_manifest_says_where_the_file_comes_from(tiny_checkpoint, deployed):
    source = tiny_checkpoint("nequip", type_names=("Cu", "Au"))
    manifest = load_deployed(deployed("nequip", type_names=("Cu", "Au"))).manifest
    assert manifest.model_sha256 == sha256_of(source)
    assert manifest.type_names == ("Cu", "Au")
    assert manifest.atomic_numbers == (29, 79)
    assert manifest.cutoffs == (4.0,) * 4
    assert manifest.num_layers == 2
    assert manifest.isolated_energies == pytest.approx((-1.0, -2.0))


def test_deviation_sees_a_wrong_force_and_refuses_it(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint("allegro"))
    exact = make_edge_model(checkpoint.build("float64"))

    def wrong(*graph):
        energy, edge_forces = exact(*graph)
        return energy, edge_forces * (1 + 1e-4)

    found = deviation(wrong, exact, reference_graphs(checkpoint)[:1])
    assert found.force == pytest.approx(1e-4, rel=1e-2)
    with pytest.raises(KanMdError, match=r"differs from the trained one .* allowed: 1.0e-05"):
        check(found, precision="float32", rounding=0.0, bound=1e-7)


def test_tf32_has_a_tolerance_of_its_own():
    """20 times its 2**-11 of a number; float32 allows a thousandth of that."""
    found = Deviation(energy=0.0, force=5e-3, virial=0.0)
    check(found, precision="tf32", rounding=0.0, bound=0.0)
    with pytest.raises(KanMdError, match="for tf32"):
        check(replace(found, force=2e-2), precision="tf32", rounding=0.0, bound=0.0)
    with pytest.raises(KanMdError, match="for float32"):
        check(found, precision="float32", rounding=0.0, bound=0.0)


@pytest.fixture
def tf32_by_environment():
    """TF32 as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE would leave it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_is_off_unless_a_file_asks_for_it(deployed, tf32_by_environment):
    load_deployed(deployed("allegro"))
    assert not torch.backends.cuda.matmul.allow_tf32


def test_file_for_a_gpu_made_without_one(tiny_checkpoint, tmp_path):
    """That it can be recorded is shown on a device, in tests/lammps."""
    source = tiny_checkpoint("allegro")
    manifest = read_manifest(deploy(source, tmp_path / "x.pth", static_shapes=True))
    assert manifest.static_shapes
    assert manifest.device == "cpu"
    assert not any(report.get("operator") for report in manifest.passes.values())
    assert not read_manifest(deploy(source, tmp_path / "y.pth")).static_shapes


def test_not_a_number_is_refused():
    nothing = Deviation(energy=float("nan"), force=float("nan"), virial=float("nan"))
    with pytest.raises(KanMdError, match="relative force error nan"):
        check(nothing, precision="float32", rounding=0.0, bound=0.0)


def flip_a_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, "deployed model not found", id="missing"),
        pytest.param(
            lambda p: p.write_bytes(p.read_bytes()[:5000]), "truncated, damaged", id="truncated"
        ),
        pytest.param(lambda p: p.write_text("a model, honestly"), "of another kind", id="text"),
        pytest.param(flip_a_weight, "changed after|truncated, damaged", id="tampered"),
    ],
)
def test_damaged_file_is_refused_in_one_line(deployed, tmp_path, damage, message):
    copy = tmp_path / "model.deployed.pth"
    shutil.copy(deployed("allegro"), copy)
    damage(copy)
    with pytest.raises(KanMdError, match=message) as caught:
        load_deployed(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"backend": "tensorrt"}, "unknown backend, got 'tensorrt'", id="backend"),
        pytest.param({"dtype": "float16"}, "unknown dtype, got 'float16'", id="dtype"),
        pytest.param({"passes": "fast"}, "unknown optimisation pass, got 'fast'", id="pass"),
        pytest.param({"output": "SOURCE"}, "would overwrite the trained model", id="overwrite"),
        pytest.param({"output": "FOLDER"}, "got a folder", id="directory"),
    ],
)
def test_wrong_arguments_write_nothing(tiny_checkpoint, tmp_path, options, message):
    source = tmp_path / "model.pth"
    shutil.copy(tiny_checkpoint("allegro"), source)
    options = dict(options)
    places = {"SOURCE": source, "FOLDER": tmp_path}
    if "output" in options:
        options["output"] = places[options["output"]]
    before = source.read_bytes()
    with pytest.raises(KanMdError, match=message):
        deploy(source, **options)
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == before


def test_refused_model_leaves_the_older_file(tiny_checkpoint, tmp_path, monkeypatch):
    older = tmp_path / "model.deployed.pth"
    older.write_text("older")
    monkeypatch.setitem(check.__globals__["TOLERANCE"], "float64", -1.0)
    with pytest.raises(KanMdError, match="compiled model differs"):
        deploy(tiny_checkpoint("allegro"), older, bound=0.0, overwrite=True)
    assert older.read_text() == "older"
    assert list(tmp_path.iterdir()) == [older]


def test_full_disk_leaves_the_older_file_and_no_remains(tiny_checkpoint, tmp_path, files_up_to):
    older = tmp_path / "older.deployed.pth"
    older.write_text("older")
    source = tiny_checkpoint()
    with files_up_to(10_000), pytest.raises(KanMdError, match=r"cannot write .*older.deployed.pth"):
        deploy(source, older, overwrite=True)
    assert older.read_text() == "older"
    assert list(tmp_path.iterdir()) == [older]


def test_command_line_says_that_there_are_no_operators(
    tiny_checkpoint, tmp_path, capfd, monkeypatch
):
    """A file that is ten times slower than it could be must not come without a word."""
    monkeypatch.setenv("KAN_MD_OPS", str(tmp_path / "missing.so"))
    source = str(shutil.copy(tiny_checkpoint("allegro"), tmp_path / "model.pth"))
    for options, noted in (([], True), (["--portable"], False), (["--passes", "none"], False)):
        with pytest.raises(SystemExit) as ended:
            main(["deploy", source, "--json", *options])
        assert ended.value.code == 0
        assert ("run: kan-md build" in " ".join(capfd.readouterr().err.split())) == noted


@pytest.mark.parametrize(("nonlinearity", "noted"), [("silu", False), ("mish", True)])
def test_command_line_says_that_the_operators_do_not_know_a_model(
    tiny_checkpoint, tmp_path, capfd, nonlinearity, noted
):
    keywords = {"model_dtype": "float32", "allegro_mlp_nonlinearity": nonlinearity}
    source = str(shutil.copy(tiny_checkpoint("allegro", **keywords), tmp_path / "model.pth"))
    with pytest.raises(SystemExit) as ended:
        main(["deploy", source])
    assert ended.value.code == 0
    said = " ".join(capfd.readouterr().err.split())
    assert ("fused_allegro does not know every part" in said) == noted


def test_command_line_deploys_and_inspects(tiny_checkpoint, tmp_path, capsys):
    source, output = tmp_path / "model.pth", tmp_path / "model.deployed.pth"
    shutil.copy(tiny_checkpoint("allegro"), source)
    for command in (["deploy", str(source), "--json"], ["inspect", str(output), "--json"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0
    written, inspected = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert written["output"] == str(output)
    assert written["force_error"] < 1e-9
    assert inspected["what"] == "deployed"
    assert inspected["type_names"] == ["Ag"]
    with pytest.raises(SystemExit):
        main(["inspect", str(source)])
    assert "trained model" in capsys.readouterr().out
