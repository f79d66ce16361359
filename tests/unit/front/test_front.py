"""A front for one's own data: which sizes are trained on what, which are best, where it bends."""

import copy
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.neighborlist import neighbor_list
from rich.console import Console

from kan_md import children
from kan_md.benchmark.compare import Conditions, Report
from kan_md.benchmark.machine import describe_machine
from kan_md.benchmark.statistics import Row
from kan_md.config import load_config
from kan_md.errors import KanMdError
from kan_md.front import ladder, study
from kan_md.front.held_out import read_held_out, timing_structure
from kan_md.front.points import Point, budget_of, front_of, knee_of
from kan_md.front.report import choice_lines
from kan_md.runs import Store

CONTENT = {
    "data": {"train": "alloy.xyz", "split": {"method": "block", "train": 6, "val": 3, "test": 3}},
    "model": {
        "backbone": "nequip",
        "r_max": 3.2,
        "dtype": "float64",
        "per_type_energy_shifts": {"Cu": -1.0, "Au": 0.5},
        "num_layers": 4,
    },
    "training": {"optimizer": {"lr": 0.01}, "batch_size": 2, "epochs": 2, "seed": 5},
}
NOWHERE = Console(file=io.StringIO())


def point(name, time, forces, energy=None):
    errors = {"forces_mae": forces, "energy_mae": energy}
    numbers = {"time_error": 0.0, "parameters": 1, "seconds": 1.0, "epochs": 1}
    return Point(name=name, backbone="mace", time=time, errors=errors, file=name, **numbers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, alloy_frames):
    path = tmp_path_factory.mktemp("front")
    ase.io.write(path / "alloy.xyz", alloy_frames * 2)
    return path


def write(folder, name="config.yaml", **changes):
    """A configuration with other values: ``model__r_max=4.0``; None leaves a key out."""
    content = copy.deepcopy(CONTENT)
    for key, value in changes.items():
        section, _, inner = key.partition("__")
        content[section][inner] = value
        if value is None:
            del content[section][inner]
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


def test_sizes_differ_in_the_model_and_share_all_else(folder):
    config = load_config(write(folder))
    names = (*ladder.DEFAULT, ladder.OWN)
    runs = dict(zip(names, ladder.runs_of(config, names), strict=True))
    for run in runs.values():
        assert run.config.data.train == [(folder / "alloy.xyz").absolute()]
        assert run.config.data.split == config.data.split
        assert run.config.training == config.training
        for key in ladder.OF_THE_DATA:  # cutoff, precision, reference energies
            assert getattr(run.config.model, key) == getattr(config.model, key)
    assert len({run.id for run in runs.values()}) == len(names)
    assert runs["own"].config.model == config.model
    assert runs["small"].config.model.hyperparameters == {
        "num_layers": 1, "l_max": 3, "num_scalar_features": 16, "correlation": 3}  # fmt: skip
    assert [run.config.model.backbone for run in runs.values()] == [
        *["mace"] * 3, "allegro", "nequip"]  # fmt: skip
    norms = [run.config.model.avg_num_neighbors for run in runs.values()]
    assert norms == [2, 2, 2, "auto", "auto"]
    assert ladder.replaced_keys(config) == ["backbone", "num_layers"]


def test_the_norm_of_one_backbone_is_not_taken_for_another(folder):
    """`kan-md init --size` writes it into the configuration that a front may start from."""
    config = load_config(write(folder, model__backbone="mace", model__avg_num_neighbors=2))
    allegro, own = ladder.runs_of(config, ("allegro", ladder.OWN))
    assert allegro.config.model.avg_num_neighbors == "auto"
    assert own.config.model.avg_num_neighbors == 2
    assert "avg_num_neighbors" in ladder.replaced_keys(config)


@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_nothing_beats_in_time_and_error(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (30, 2))  # with ties
    points = [point(str(n), float(t), float(e)) for n, (t, e) in enumerate(values)]
    front = front_of(points)
    for one in points:
        beaten = any(
            other.time <= one.time
            and other.error("forces_mae") <= one.error("forces_mae")
            and (other.time, other.errors) != (one.time, one.errors)
            for other in points
        )
        twin = any((f.time, f.errors) == (one.time, one.errors) for f in front)
        assert twin == (not beaten)
    for budget in rng.uniform(0.5, 10.0, 20):  # the advice for a budget is the best one within it
        within = [p.error("forces_mae") for p in points if p.time <= budget]
        advised = [p for p in front if budget_of(p, front)[0] <= budget < budget_of(p, front)[1]]
        assert [p.error("forces_mae") for p in advised] == ([min(within)] if within else [])


def test_models_without_an_error_are_on_no_front():
    points = [point("a", 1.0, None), point("b", 2.0, math.nan), point("c", 3.0, 0.1)]
    assert [p.name for p in front_of(points)] == ["c"]
    assert budget_of(points[0], front_of(points)) is None


def test_knee_is_where_two_power_laws_meet():
    """Error ~ time^-2 up to 2 µs, ~ time^-1/4 beyond; in other units it is the same one."""
    times = [0.5, 1.0, 2.0, 4.0, 16.0]
    for unit in (1.0, 1e-3):
        errors = [unit * (t**-2 if t <= 2 else 0.25 * (t / 2) ** -0.25) for t in times]
        front = front_of([point(str(t), t, e) for t, e in zip(times, errors, strict=True)])
        assert knee_of(front).time == 2.0


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param([1.0, 0.5], id="two points"),
        pytest.param([1.0, 0.5, 0.25], id="a power law"),
        pytest.param([1.0, 0.9, 0.25], id="bent the other way"),
    ],
)
def test_front_that_does_not_bend_has_no_knee(errors):
    front = front_of([point(str(n), 2.0**n, e) for n, e in enumerate(errors)])
    assert len(front) == len(errors)
    assert knee_of(front) is None


def degrees(atoms, r_max):
    return np.bincount(neighbor_list("i", atoms, r_max), minlength=len(atoms))


def test_repeated_crystal_has_the_neighbours_of_the_frame(alloy_frames):
    frame = alloy_frames[0]
    atoms = timing_structure(frame, r_max=3.2)
    assert 500 <= len(atoms) < 900
    repeats = len(atoms) // len(frame)
    assert (degrees(atoms, 3.2).reshape(repeats, -1) == degrees(frame, 3.2)).all()
    lengths = atoms.cell.lengths()
    assert max(lengths) < 2 * min(lengths)


def test_slab_is_repeated_in_its_plane_and_molecules_do_not_meet():
    slab = Atoms("Cu2", [[0, 0, 0], [1.8, 1.8, 1.8]], cell=[3.6, 3.6, 0], pbc=[1, 1, 0])
    atoms = timing_structure(slab, r_max=4.0)
    assert len(atoms) >= 500
    assert list(atoms.pbc) == [True, True, False]
    assert np.ptp(atoms.positions[:, 2]) == pytest.approx(1.8)
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    gas = timing_structure(water, r_max=4.0)
    assert len(gas) >= 500
    assert (degrees(gas, 4.0) == 2).all()  # the other two atoms of the same molecule
    assert np.linalg.matrix_rank(gas.cell.array) == 3


def test_held_out_structures_are_the_test_part(folder, alloy_frames):
    frames, warnings = read_held_out(load_config(write(folder)))
    expected = [(alloy_frames * 2)[i] for i in (3, 7, 11)]  # the last of each block of four
    for found, wanted in zip(frames, expected, strict=True):
        np.testing.assert_allclose(found.positions, wanted.positions, atol=1e-7)  # of the file
    assert warnings  # each frame is there twice, in several parts


MISTAKES = {
    "unknown size, got 'huge'; allowed: tiny": {"sizes": "huge"},
    "--budget, got '4 hours'; allowed: a duration is written": {"budget": "4 hours"},
    "--budget, got 0s; allowed: > 0 s": {"budget": "0s"},
    "leaves no test structures, got 0; add data.test": {"settings": ["data.split.test=0"]},
    "not a whole model.pth": {"settings": ["training.init_from=alloy.xyz"]},
    "data file not found": {"settings": ["data.train=other.xyz"]},
    "structure file must exist": {"structure": Path("missing.xyz")},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake_is_one_line_before_anything_is_made(message, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(children, "child", lambda *_, **__: pytest.fail("something was started"))
    arguments = {"sizes": "tiny", "console": NOWHERE, **MISTAKES[message]}
    with pytest.raises(KanMdError) as error:
        study.make_front(write(folder), tmp_path / "front", **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "front").exists()


def test_weights_of_a_model_are_no_start_of_a_ladder(folder, tiny_checkpoint, tmp_path):
    path = tiny_checkpoint("mace", type_names=("Cu", "Au"))
    with pytest.raises(KanMdError, match="remove it: weights fit one size only"):
        study.make_front(
            write(folder),
            tmp_path / "front",
            sizes="tiny",
            console=NOWHERE,
            settings=[f"training.init_from={path}"],
        )
    assert not (tmp_path / "front").exists()


def stub_timing(files, atoms, folder, *, console):
    """Times as if LAMMPS had been there: 1, 2, ... µs per atom and step."""
    rows = [
        Row(label=name, readout="kan", backbone="mace", dtype="float64", backend="torchscript",
            passes=(), num_atoms=len(atoms), edges_per_atom=12.0, steps=100,
            ms_per_step=time * len(atoms) * 1e-3, ms_error=0.0, ms_p95=1.0, ms_mean=1.0,
            us_per_atom_step=float(time), ns_per_day=1.0, cpu_ms_per_step=1.0, phases={"Pair": 1.0},
            peak_rss_mib=1.0, device_mib={}, temperature=300.0)
        for time, name in enumerate(files, start=1)
    ]  # fmt: skip
    report = Report(title="", rows=rows, control=None, structure="", conditions=Conditions(),
                    machine=describe_machine(), command="", date="")  # fmt: skip
    return report, {}


def pretend(patch):
    """Let nothing be deployed or timed."""
    patch.setattr(study, "time_all", stub_timing)
    patch.setattr(study, "deploy_all", lambda runs, store, **_: (
        {run.name: store.folder(run) / "model.deployed.pth" for run in runs}, {}))  # fmt: skip


@pytest.fixture
def without_lammps(monkeypatch):
    pretend(monkeypatch)


@pytest.fixture(scope="module")
def trained(folder):
    """One size that trains and one that cannot; what was said, and the folder."""
    text, patch = io.StringIO(), pytest.MonkeyPatch()
    broken = {"model": {"backbone": "mace", "r_max": 3.2, "hidden_irreps": "no irreps"}}
    output = folder / "front"
    with patch.context() as now:
        now.setitem(ladder.RUNGS, "small", lambda: broken | {"readout": {"kind": "kan"}})
        pretend(now)
        console = Console(file=text, width=300)
        result = study.make_front(write(folder), output, sizes="small,tiny", console=console)
    return result, output, text.getvalue()


def test_size_that_fails_is_named_and_the_others_are_drawn(trained):
    result, output, said = trained
    assert list(result.failed) == ["small"]
    assert [p.name for p in result.front] == ["tiny"]
    assert "do without model.backbone, model.num_layers" in said
    for name in ("front.png", "front.md"):
        assert (output / name).stat().st_size > 100
    assert f"small failed: {result.failed['small']}" in (output / "front.md").read_text()


def test_numbers_are_those_of_the_held_out_structures(trained, folder, alloy_frames):
    from kan_md import KANCalculator

    _, output, _ = trained
    found = json.loads((output / "front.json").read_text())
    (tiny,) = found["points"]
    calculator = KANCalculator((output / tiny["file"]).with_name("model.pth"), form="exact")
    wrong = []
    for frame in [(alloy_frames * 2)[i] for i in (3, 7, 11)]:
        atoms = frame.copy()
        atoms.calc = calculator
        wrong.append(atoms.get_forces() - frame.get_forces())
    assert tiny["errors"]["forces_mae"] == pytest.approx(np.abs(np.concatenate(wrong)).mean())
    assert (found["front"], found["knee"], found["test_structures"]) == (["tiny"], None, 3)


def test_what_is_trained_is_drawn_again_without_training(
    trained, folder, without_lammps, monkeypatch
):
    result, output, _ = trained
    monkeypatch.setattr(children, "child", lambda *_, **__: pytest.fail("a training was started"))
    again = study.make_front(write(folder), output, sizes="tiny", console=NOWHERE)
    assert again.points == result.points


def test_budget_that_is_used_up_leaves_a_front_of_what_is_there(
    trained, folder, without_lammps, monkeypatch
):
    result, output, _ = trained
    monkeypatch.setattr(children, "child", lambda *_, **__: pytest.fail("a training was started"))
    arguments = {"budget": "0.000001s", "console": NOWHERE}
    again = study.make_front(write(folder), output, sizes="tiny,medium", **arguments)
    assert (again.points, again.unfinished) == (result.points, ["medium"])
    with pytest.raises(KanMdError, match=r"medium unfinished\); give the same command again"):
        study.make_front(write(folder), output, sizes="medium", **arguments)


def test_noisy_time_is_told(trained):
    result, output, _ = trained
    (tiny,) = result.points
    noisy = replace(result, points=[replace(tiny, time_error=0.3 * tiny.time)])
    assert not any("varied" in line for line in choice_lines(result, output))
    assert any(line.startswith("times of tiny varied") for line in choice_lines(noisy, output))


def test_model_that_was_removed_is_a_failure_with_a_remedy(trained, folder, without_lammps):
    _, output, _ = trained
    (run,) = ladder.runs_of(load_config(write(folder)), ["tiny"])
    store = Store(output / "records", output / "runs")
    model = store.model(run)
    hidden = model.rename(model.with_suffix(".hidden"))
    try:
        with pytest.raises(KanMdError, match=r"remove .*records/tiny-.*json, and it is trained"):
            study.make_front(write(folder), output, sizes="tiny", console=NOWHERE)
    finally:
        hidden.rename(model)
