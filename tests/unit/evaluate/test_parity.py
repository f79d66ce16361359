"""The parity figure on evaluations that are made up."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from matplotlib.colors import to_hex

from kan_md.evaluate import parity
from kan_md.evaluate.evaluation import Evaluation
from kan_md.evaluate.parity import group_colours, plot_parity, points_of
from kan_md.figures import COLOURS, GREY
from kan_md.tasks.targets import POTENTIAL_TARGETS

ENERGY, FORCES, _ = POTENTIAL_TARGETS


@pytest.fixture
def evaluation():
    """Four structures of AgCu2 and an isolated atom; every prediction is 0.01 too high."""
    rng = np.random.default_rng(3)
    frames = [Atoms("AgCu2", positions=rng.normal(size=(3, 3)), cell=[9, 9, 9]) for _ in range(4)]
    for atoms, name in zip(frames, ("bulk", "bulk", "bulk", "slab"), strict=True):
        atoms.info["config_type"] = name
    frames.append(Atoms("Ag", cell=[9, 9, 9]))
    energies = [np.array([[-30.0 + 0.3 * index]]) for index in range(4)] + [np.array([[-1.0]])]
    forces = [rng.normal(size=(len(atoms), 3)) for atoms in frames]
    forces[0][1, 2] = np.nan  # no label
    return Evaluation(
        frames=frames,
        targets=[ENERGY, FORCES],
        predicted=[ENERGY, FORCES],
        labels={"energy": energies, "forces": forces},
        predictions={
            "energy": [value + 0.03 for value in energies],
            "forces": [np.nan_to_num(value) + 0.01 for value in forces],
        },
        errors={"energy_mae": 0.01, "energy_rmse": 0.01, "forces_mae": 0.01, "forces_rmse": 0.02},
        by_config_type={},
        counted=[0, 1, 2, 3],
        counts={"all": 4},
        isolated=[("Ag", -1.0, -0.97)],
    )


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draws an evaluation and gives the figure."""
    drawn = []
    monkeypatch.setattr(parity, "save_figure", lambda figure, path: drawn.append(figure))

    def plot(evaluation):
        plot_parity(evaluation, tmp_path / "parity.pdf")
        return drawn[-1]

    return plot


def test_points_are_what_the_errors_are_made_of(evaluation):
    """Energies per atom, components with a label, no isolated atoms."""
    energy, forces = (points_of(evaluation, target) for target in (ENERGY, FORCES))
    np.testing.assert_allclose(energy.label, [-10.0, -9.9, -9.8, -9.7])
    np.testing.assert_allclose(energy.residual, 0.01)
    assert len(forces.label) == 4 * 9 - 1
    np.testing.assert_allclose(forces.residual, 0.01)
    assert energy.group.tolist() == ["bulk"] * 3 + ["slab"]
    assert forces.group.tolist().count("Ag") == 4 * 3
    assert forces.group.tolist().count("Cu") == 4 * 6 - 1


def test_titles_and_residuals_are_in_the_units_of_the_tables(evaluation, draw):
    energy, forces, energy_residuals, forces_residuals = draw(evaluation).axes
    assert energy.get_title() == "energy: MAE 10, RMSE 10 meV/atom"
    assert forces.get_title() == "forces: MAE 10, RMSE 20 meV/Å"
    assert forces.get_ylabel() == "prediction (eV/Å)"
    assert forces_residuals.get_ylabel() == "prediction − label\n(meV/Å)"
    (dots,) = forces_residuals.collections
    np.testing.assert_allclose(dots.get_offsets()[:, 1], 10.0)
    np.testing.assert_allclose(energy_residuals.collections[0].get_offsets()[:, 1], 10.0)


def test_energies_far_from_zero_keep_short_ticks(evaluation, draw):
    """What is taken off is said, and the residuals share the axis."""
    energy, _, residuals, _ = draw(evaluation).axes
    assert residuals.get_xlabel() == "label + 9.850 (eV/atom)"
    assert energy.get_ylabel() == "prediction + 9.850 (eV/atom)"
    for axis in (energy, residuals):
        x = np.sort(axis.collections[0].get_offsets()[:, 0])
        np.testing.assert_allclose(x, [-0.15, -0.05, 0.05, 0.15], atol=1e-9)


def test_colours_are_elements_of_atoms_and_config_types_of_structures(evaluation, draw):
    energy, forces, *_ = draw(evaluation).axes
    assert [text.get_text() for text in energy.get_legend().get_texts()] == ["bulk", "slab"]
    assert [text.get_text() for text in forces.get_legend().get_texts()] == ["Cu", "Ag"]
    shades = [to_hex(c) for c in forces.collections[0].get_facecolors()]
    assert {shade: shades.count(shade) for shade in COLOURS[:2]} == {COLOURS[0]: 23, COLOURS[1]: 12}


def test_one_group_needs_no_legend(evaluation, draw):
    for atoms in evaluation.frames:
        atoms.info["config_type"] = "bulk"
    assert draw(evaluation).axes[0].get_legend() is None


def test_groups_beyond_the_palette_share_a_grey():
    names = [f"t{index:02d}" for index in range(20)]
    colours = group_colours(np.array(sorted(names * 2 + names[:3]), dtype=object))
    assert list(colours.values()) == [*COLOURS[:-1], GREY]
    assert list(colours)[:3] == names[:3]


def test_a_few_far_off_do_not_hide_the_others_and_are_counted(evaluation, draw):
    rng = np.random.default_rng(0)
    frames = [Atoms("Cu50", positions=rng.normal(size=(50, 3))) for _ in range(4)]
    labels = [rng.normal(size=(50, 3)) for _ in frames]
    predictions = [label + 0.01 * rng.normal(size=label.shape) for label in labels]
    predictions[0][0, 0] += 30.0
    large = replace(
        evaluation,
        frames=frames,
        targets=[FORCES],
        labels={"forces": labels},
        predictions={"forces": predictions},
    )
    _, residuals = draw(large).axes
    assert residuals.get_ylim()[1] < 200.0  # meV/Å
    assert residuals.get_title().startswith("1 of 600 farther off, up to 3e+04")
