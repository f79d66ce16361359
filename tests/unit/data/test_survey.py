"""A look at a set of structures finds what was put into it, and nothing else."""

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.cli.main import main
from kan_md.data import survey_figure
from kan_md.data.survey import make_survey
from kan_md.data.survey_table import GPA, group_rows


def with_labels(atoms, **labels):
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **labels)
    return copy


@pytest.fixture(scope="module")
def odd(alloy_frames):
    """Fifteen good structures, and one of each kind that deserves a look."""
    frames = []
    for index in range(15):
        atoms = alloy_frames[index % 6].copy()
        atoms.rattle(1e-3, seed=index)
        results = alloy_frames[index % 6].calc.results
        forces = results["forces"] - results["forces"].mean(0)
        frames.append(with_labels(atoms, **results | {"forces": forces}))
        frames[-1].info |= {"config_type": "bulk", "source": f"good {index}"}
    energy = frames[0].get_potential_energy()
    zeros = np.zeros((len(frames[0]), 3))
    net = frames[2].get_forces()
    net[:, 0] += 0.5
    odd = {
        "duplicates": with_labels(frames[0], energy=energy + 0.5, forces=frames[0].get_forces()),
        "zero forces": with_labels(frames[0], energy=energy, forces=zeros),
        "net forces": with_labels(frames[2], energy=frames[2].get_potential_energy(), forces=net),
        "short distances": with_labels(
            Atoms("Cu2", [(0, 0, 0), (0, 0, 1.0)]), forces=[[0, 0, -90], [0, 0, 90]], energy=70.0
        ),
        "lonely atoms": with_labels(Atoms("CuAu", [(0, 0, 0), (0, 0, 9)]), energy=0.3),
    }
    for kind in ("zero forces", "net forces"):
        odd[kind].rattle(1e-3, seed=99)
    for kind, atoms in odd.items():
        atoms.info |= {"config_type": "odd", "source": kind}
    alone = with_labels(Atoms("Cu", info={"config_type": "IsolatedAtom"}), energy=3.51)
    return frames, odd, alone


def test_good_structures_have_no_findings(odd):
    survey = make_survey(odd[0], 4.0)
    assert survey.findings == []
    assert survey.labelled() == {"energy": 15, "forces": 15, "stress": 15}


def test_every_odd_structure_is_found_by_its_kind(odd):
    frames, strange, alone = odd
    survey = make_survey([*frames, *strange.values()], 4.0, isolated=[alone])
    found = {finding.kind: finding for finding in survey.findings}
    assert found.keys() == {*strange, "force outliers", "energy outliers"}
    for kind in strange:
        assert found[kind].sources == [kind]
    assert found["force outliers"].sources == ["short distances"]
    assert found["energy outliers"].sources[0] == "short distances"
    assert "energies up to 0.5 eV apart" in found["duplicates"].text
    assert "Cu-Cu at 1 Å" in found["short distances"].text
    assert found["lonely atoms"].text.startswith("2 in 1 structure without a neighbour within 4 Å")
    assert "90 eV/Å" in found["force outliers"].text
    assert "up to 0.5 eV/Å" in found["net forces"].text
    assert survey.references.sources["Cu"] == "isolated atom"


def test_rows_are_those_of_the_groups(odd):
    frames, strange, _ = odd
    survey = make_survey([*frames, *strange.values()], 4.0)
    bulk, others, all_ = group_rows(survey)
    assert (bulk["config_type"], others["config_type"], all_["structures"]) == ("bulk", "odd", 20)
    forces = np.concatenate([atoms.get_forces() for atoms in frames])
    assert bulk["force_rms"] == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert bulk["force_max"] == pytest.approx(np.linalg.norm(forces, axis=1).max())
    pressures = [-GPA * atoms.get_stress()[:3].mean() for atoms in frames]
    assert bulk["pressure"] == pytest.approx([min(pressures), max(pressures)])
    assert others["pressure"] is None and others["closest"] == pytest.approx(1.0)
    distances = [atoms.get_all_distances(mic=True) for atoms in frames]
    closest = min(found[found > 0].min() for found in distances)
    assert bulk["closest"] == pytest.approx(closest)


@pytest.fixture
def odd_file(odd, tmp_path):
    frames, strange, alone = odd
    ase.io.write(tmp_path / "odd.xyz", [*frames, *strange.values(), alone])
    return tmp_path / "odd.xyz"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_command_says_all_of_it_with_a_picture(odd_file, tmp_path, capsys):
    picture = tmp_path / "odd.png"
    text = run(capsys, "data", "check", odd_file, "-o", picture, "--r-max", 4)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    for words in (
        "bulk", "all", "energy 20 of 20", "stress 15 of 20", "isolated atoms", "Cu 3.5100 eV",
        "Cu 3.510 eV (isolated atom)", "duplicates", "odd.xyz, frame 15", "short distances",
    ):  # fmt: skip
        assert words in text
    assert max(map(len, text.splitlines())) < 110


def test_json_says_the_same(odd_file, tmp_path, capsys):
    figure = tmp_path / "odd.svg"
    said = json.loads(run(capsys, "data", "check", odd_file, "-o", figure, "--r-max", 4, "--json"))
    assert "<svg" in figure.read_text()[:500]
    assert said["structures"] == 20 and said["isolated_atoms"] == ["odd.xyz, frame 20"]
    kinds = {finding["kind"]: finding["structures"] for finding in said["findings"]}
    assert kinds["lonely atoms"] == ["odd.xyz, frame 19"]
    assert said["labels"] == {"energy": 20, "forces": 19, "stress": 15}
    assert [row["config_type"] for row in said["config_types"]] == ["bulk", "odd"]


@pytest.mark.parametrize("labels", [{"energy": -1.0}, {"forces": np.ones((2, 3))}, {}])
def test_sets_with_few_labels_are_looked_at_too(tmp_path, capsys, labels):
    atoms = [with_labels(Atoms("H2", [(0, 0, 0), (0, 0, z)]), **labels) for z in (0.7, 0.8)]
    ase.io.write(tmp_path / "a.xyz", atoms)
    text = run(capsys, "data", "check", tmp_path / "a.xyz", "-o", tmp_path / "a.png")
    assert "stress 0 of 2" in text


def test_contradicting_isolated_atoms_are_a_finding(tmp_path, capsys):
    frames = [with_labels(Atoms("H"), energy=energy) for energy in (-1.0, -13.6)]
    ase.io.write(tmp_path / "a.xyz", frames)
    text = run(capsys, "data", "check", tmp_path / "a.xyz", "-o", tmp_path / "a.png")
    assert "isolated atoms of H contradict each other, got -1 eV (a.xyz, frame 0) and" in text
    assert not (tmp_path / "a.png").exists()  # there is nothing to draw


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draws a set and gives the panels."""
    drawn = []
    monkeypatch.setattr(survey_figure, "save_figure", lambda figure, path: drawn.append(figure))

    def plot(frames):
        survey_figure.plot_survey(make_survey(frames, 4.0), tmp_path / "a.pdf")
        drawn[-1].canvas.draw()
        return drawn[-1].axes

    return plot


def texts(axis):
    return [tick.get_text() for tick in axis.get_ticklabels() if tick.get_text()]


def test_ticks_of_the_picture_are_plain_numbers_and_counts_are_whole(odd, draw):
    energies, forces, distances, _ = draw([*odd[0], *odd[1].values()])
    for axis in (energies.yaxis, forces.yaxis):
        assert all(float(text).is_integer() for text in texts(axis))
    for axis in (forces.xaxis, distances.yaxis):
        assert all(float(text) > 0 for text in texts(axis))


def test_a_panel_without_labels_says_so_and_has_no_axes_of_nothing(odd, draw):
    bare = [with_labels(atoms, stress=atoms.get_stress()) for atoms in odd[0]]
    energies, _, distances, pressures = draw(bare)
    for panel in (energies, distances):
        assert [text.get_text() for text in panel.texts] == ["no labels"]
        assert texts(panel.xaxis) == texts(panel.yaxis) == []
    assert not pressures.texts
