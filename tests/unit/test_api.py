"""``import kan_md``: what it offers, and that its defaults are those of the command line."""

import inspect
import subprocess
import sys

import pytest

import kan_md
from kan_md.cli.main import main
from kan_md_deploy import deploy_model
from kan_md_deploy.archive import read_manifest

FREE_TO_DIFFER = {"as_json", "figure", "setting", "context", "config", "model", "output"}


def test_import_loads_nothing_heavy():
    code = (
        "import sys, kan_md; dir(kan_md); "
        "print(sorted({'torch', 'numpy', 'ase', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there():
    import kan_md_deploy
    from kan_md.calculator import KANCalculator, TensorCalculator
    from kan_md.config import load_config
    from kan_md.evaluate.models import load_model

    assert set(kan_md.__all__) <= set(dir(kan_md))
    assert kan_md.deploy is kan_md_deploy.deploy
    assert kan_md.load is load_model
    assert kan_md.load_config is load_config
    assert kan_md.KANCalculator is KANCalculator
    assert kan_md.TensorCalculator is TensorCalculator
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = kan_md.trian


def test_package_of_the_training_is_called_like_its_function(monkeypatch):
    from kan_md.train import run

    asked = []
    monkeypatch.setattr(run, "train", lambda *given, **named: asked.append((given, named)))
    kan_md.train("config", "folder", resume=True)
    assert asked == [(("config", "folder"), {"resume": True})]


def defaults(function) -> dict[str, object]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def test_defaults_are_those_of_the_command_line():
    from kan_md.cli import deploy as deploy_command
    from kan_md.cli import train as train_command
    from kan_md.train.run import train

    ours, theirs = defaults(deploy_model), defaults(deploy_command.deploy)
    # Spelt as flags there.
    assert (ours.pop("operators"), theirs.pop("portable")) == ("fused", False)
    assert (ours.pop("static_shapes"), theirs.pop("static_shapes")) == (None, False)
    names = (ours.keys() | theirs.keys()) - FREE_TO_DIFFER
    assert {n: ours[n] for n in names} == {n: theirs[n] for n in names}
    ours, theirs = defaults(train), defaults(train_command.train)
    assert ours["output_dir"] == str(theirs["output"])
    assert {n: ours[n] for n in ("resume", "overwrite")} == {
        n: theirs[n] for n in ("resume", "overwrite")
    }


def test_python_and_command_line_make_the_same_file(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("allegro", model_dtype="float32")
    ours = kan_md.deploy(source, tmp_path / "python.pth")
    theirs = tmp_path / "command.pth"
    with pytest.raises(SystemExit) as ended:
        main(["deploy", str(source), "-o", str(theirs)])
    assert ended.value.code == 0
    assert read_manifest(ours) == read_manifest(theirs)


def test_loaded_model_says_the_same_trained_and_deployed(tiny_checkpoint, deployed, ag_frames):
    trained, file = (kan_md.load(make("nequip")) for make in (tiny_checkpoint, deployed))
    expected, found = (model.predict(ag_frames[0]) for model in (trained, file))
    assert found.keys() == expected.keys() == {"energy", "energies", "forces", "stress"}
    assert found["energies"].sum() == pytest.approx(found["energy"])
    for name, array in expected.items():
        assert found[name] == pytest.approx(array, abs=1e-9)
