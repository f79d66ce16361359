"""What the README shows must work."""

import re
from pathlib import Path

import ase.io
import numpy as np
import yaml
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_configuration_is_valid_and_short():
    from kan_md.config import parse_config

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    config = parse_config(yaml.safe_load(text))
    assert config.readout.kind == "kan"
    assert len(text.splitlines()) <= 20


def test_every_command_exists():
    from kan_md.cli import main

    shown = set(re.findall(r"kan-md ([a-z]+)\b", README)) - {"is"}
    assert {"train", "deploy", "lmp", "benchmark"} <= shown
    for command in sorted(shown):
        assert (Path(main.__file__).parent / f"{command}.py").is_file(), command


def test_every_link_and_make_target_exists():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert f"\n{target}:" in makefile, target


def test_what_it_shows_of_python_runs(ag_frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("frames.xyz", [labelled(atoms) for atoms in ag_frames])
    model = {"backbone": "nequip", "r_max": 3.5, "num_layers": 1, "l_max": 0, "num_features": 4}
    config = {
        "data": {"train": "frames.xyz", "split": {"train": 0.7, "val": 0.3, "test": 0}},
        "model": model,
        "training": {"epochs": 1, "device": "cpu"},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    (text,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shown = {"atoms": ag_frames[0].copy()}
    exec(text, shown)
    assert shown["file"] == Path("run/model.deployed.pth")
    forces = shown["atoms"].get_forces()
    np.testing.assert_allclose(shown["forces"], forces, atol=1e-4 * np.abs(forces).max())


def labelled(atoms):
    copy = atoms.copy()
    copy.calc = EMT()
    forces = copy.get_forces()
    copy.calc = SinglePointCalculator(copy, energy=copy.get_potential_energy(), forces=forces)
    return copy
