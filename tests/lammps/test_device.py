"""Steps that stay on a device: the neighbour list is sent when it changes, a step is replayed.

Everything is compared with the same model on the processor. Without a GPU an emulated device takes
its place (tests/cpp/emulated_device/): memory of its own, and recordings that refuse what those
of a GPU refuse.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine import ZERO_STEPS, system
from structures import ELEMENTS, rattled, structures

STYLES = ("allegro", "nequip", "mace")
KEEP = ("step", "list", "nothing")
MD = [
    "velocity all create 900 4711",
    "fix 1 all nve",
    "timestep 0.002",
    "neighbor 0.4 bin",
    "neigh_modify every 1 delay 0 check yes",
]

pytestmark = pytest.mark.lammps


class Device:
    """A device to run on.

    Args:
        name: as torch knows it.
        environment: variables that a process needs to have it.
        log: file of its counters, which appears when a process ends.
    """

    def __init__(self, name, environment, log):
        self.name, self.environment, self.log = name, environment, log

    def counters(self):
        return json.loads(self.log.read_text().splitlines()[-1])


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, tmp_path):
    log = tmp_path / "device.json"
    if request.param == "emulated":
        library = request.getfixturevalue("emulated_device")
        return Device(
            "privateuseone", {"LD_PRELOAD": str(library), "EMULATED_DEVICE_LOG": str(log)}, log
        )
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return Device("cuda", {}, log)


@pytest.fixture(scope="module")
def for_device(alloy_model):
    """Factory of the files that --device cuda makes, here without the device."""
    return lambda style, **deploy: alloy_model(style, deploy={"static_shapes": True, **deploy})


def jobs_on(place, cases, folder):
    """Jobs for ``(atoms, style, file, lines)``, with lines before the box as a fifth where there
    are any; ``place`` goes behind the style's name.
    """
    return [
        {
            "commands": [
                *system(
                    atoms,
                    ELEMENTS,
                    style,
                    file,
                    folder=folder,
                    before=before,
                    pair=[f"pair_style {style} {place}", f"pair_coeff * * {file} Cu Au"],
                ),
                *lines,
            ],
            "computes": ["kanpress"] if lines is ZERO_STEPS else [],
        }
        for atoms, style, file, lines, *before in cases
    ]


def assert_equal(results, expected, *, tolerance=1e-9):
    for result, reference in zip(results, expected, strict=True):
        assert result.error == reference.error == ""
        assert result.energy == pytest.approx(reference.energy, rel=tolerance)
        for key, value in reference.atoms.items():
            scale = max(1.0, np.abs(value).max())
            np.testing.assert_allclose(result.atoms[key], value, rtol=0, atol=tolerance * scale)
        for key, value in reference.values.items():
            np.testing.assert_allclose(result.values[key], value, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def single_points(for_device, engine, tmp_path_factory):
    """Cases, and what the processor says of them."""
    cases = [
        (atoms, style, for_device(style), ZERO_STEPS)
        for style in STYLES
        for atoms in structures().values()
    ]
    return cases, engine.run(jobs_on("device cpu", cases, tmp_path_factory.mktemp("points")))


@pytest.mark.parametrize("keep", KEEP)
def test_single_points(keep, device, single_points, engine, tmp_path):
    cases, expected = single_points
    place = f"device {device.name} keep {keep}"
    there = engine.run(jobs_on(place, cases, tmp_path), environment=device.environment)
    assert_equal(there, expected)


@pytest.mark.parametrize("passes", ["none", "default"])
def test_replayed_steps_through_new_neighbour_lists(passes, device, for_device, engine, tmp_path):
    cases = [
        (
            rattled((2, 2, 2), seed=7),
            style,
            for_device(style, passes=passes),
            [*MD, "thermo 5", "run 40"],
        )
        for style in STYLES
    ]
    there = engine.run(
        jobs_on(f"device {device.name}", cases, tmp_path), environment=device.environment
    )
    assert_equal(there, engine.run(jobs_on("device cpu", cases, tmp_path)), tolerance=1e-8)
    for result in there:
        assert "list on the device, steps replayed" in result.output
        builds = int(result.output.split("Neighbor list builds = ")[1].split()[0])
        assert 1 < builds < 20
    if device.log.is_file():
        counters = device.counters()
        assert counters["captures"] >= len(STYLES)
        assert counters["replays"] > 10 * len(STYLES)


def test_a_step_sends_positions_and_fetches_results_once(device, for_device, engine, tmp_path):
    if device.name == "cuda":
        pytest.skip("only the emulated device counts")
    atoms, counted = rattled((2, 2, 2), seed=7), []
    for steps in (10, 30):
        lines = ["velocity all create 10 4711", "fix 1 all nve", f"run {steps}"]
        cases = [(atoms, "nequip", for_device("nequip"), lines)]
        jobs = jobs_on(f"device {device.name}", cases, tmp_path)
        (result,) = engine.run(jobs, environment=device.environment)
        assert result.error == ""
        assert "Neighbor list builds = 0" in result.output
        counted.append(device.counters())
    more = {key: counted[1][key] - counted[0][key] for key in counted[0]}
    assert more["host_to_device"] == more["device_to_host"] == more["replays"] == 20
    assert more["scalar_reads"] == more["operators"] == more["captures"] == 0


def test_more_edges_than_room_between_two_lists(device, for_device, engine, tmp_path):
    """A box that shrinks by 8 % under one list has a third more edges in the end."""
    lines = [
        "neighbor 2.0 bin",
        "neigh_modify every 1000 delay 1000 check no",
        "fix 1 all nve",
        "fix 2 all deform 1 x scale 0.92 y scale 0.92 z scale 0.92 remap x",
        "timestep 0.0001",
        "run 20",
    ]
    atoms = rattled((3, 3, 3), cell_change=0.1 * np.eye(3), seed=7)
    cases = [(atoms, style, for_device(style), lines) for style in STYLES]
    there = engine.run(
        jobs_on(f"device {device.name}", cases, tmp_path), environment=device.environment
    )
    assert_equal(there, engine.run(jobs_on("device cpu", cases, tmp_path)), tolerance=1e-8)


def test_types_that_change_under_one_list(device, for_device, engine, tmp_path):
    lines = ["fix 1 all nve", "run 5", "set atom 1*8 type 2", "run 5 pre no"]
    cases = [(rattled((2, 2, 2), seed=1), style, for_device(style), lines) for style in STYLES]
    there = engine.run(
        jobs_on(f"device {device.name}", cases, tmp_path), environment=device.environment
    )
    assert_equal(there, engine.run(jobs_on("device cpu", cases, tmp_path)), tolerance=1e-8)


@pytest.mark.mpi
def test_two_ranks(device, for_device, engine, tmp_path):
    """Strictly local models keep the list on every rank; others send their halo at each step."""
    lines = [*MD, "run 10", *ZERO_STEPS]
    cases = [
        (rattled((3, 2, 2), seed=3), style, for_device(style), lines, *newton)
        for style in STYLES
        for newton in ([], ["newton off"])
    ]
    jobs = jobs_on(f"device {device.name}", cases, tmp_path)
    there = engine.run(jobs, ranks=2, environment=device.environment)
    assert_equal(there, engine.run(jobs_on("device cpu", cases, tmp_path)), tolerance=1e-8)
    for (_, style, *_), result in zip(cases, there, strict=True):
        assert ("list on the device" in result.output) == (style == "allegro")


def test_pair_style_command_that_comes_again(device, for_device, engine, tmp_path):
    """LAMMPS then keeps the style and its pair_coeff."""
    lines = ["run 0", f"pair_style allegro device {device.name} keep list", *ZERO_STEPS]
    cases = [(rattled((2, 2, 2)), "allegro", for_device("allegro"), lines)]
    there = engine.run(jobs_on("device cpu", cases, tmp_path), environment=device.environment)
    lines = ["run 0", *ZERO_STEPS]
    cases = [(rattled((2, 2, 2)), "allegro", for_device("allegro"), lines)]
    assert_equal(there, engine.run(jobs_on("device cpu", cases, tmp_path)))
    before, after = there[0].output.split("pair_style allegro: ")[1:]
    assert "on cpu" in before
    assert f"on {device.name}:0, list on the device, layout" in after


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torchscript", "aotinductor"])
def test_files_made_on_a_gpu(backend, alloy_model, for_device, engine, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    there, here = [
        [(rattled((2, 2, 2), seed=7), style, make(style), [*MD, "run 20"]) for style in STYLES]
        for make in (
            lambda style: alloy_model(style, deploy={"device": "cuda", "backend": backend}),
            for_device,
        )
    ]
    results = engine.run(jobs_on("", there, tmp_path))
    assert_equal(results, engine.run(jobs_on("device cpu", here, tmp_path)), tolerance=1e-8)
    for result in results:
        assert "on cuda:0, list on the device, steps replayed" in result.output


def test_file_whose_shapes_depend_on_data_keeps_its_list(device, alloy_model, engine, tmp_path):
    file = alloy_model("allegro", deploy={"operators": "portable"})
    cases = [(rattled((2, 2, 2), seed=7), "allegro", file, [*MD, "run 10"])]
    there = engine.run(
        jobs_on(f"device {device.name}", cases, tmp_path), environment=device.environment
    )
    assert_equal(there, engine.run(jobs_on("device cpu", cases, tmp_path)), tolerance=1e-8)
    assert "deploy with --static-shapes to replay steps" in there[0].output


def test_recording_that_fails_says_what_to_do(device, alloy_model, engine, tmp_path):
    """A file that promises static shapes, and reads a number from the device all the same."""
    from kan_md_deploy.archive import read_manifest, seal
    from kan_md_deploy.torchscript import save_torchscript

    file = alloy_model("allegro", deploy={"operators": "portable"})
    manifest = replace(read_manifest(file), static_shapes=True)
    liar = tmp_path / "liar.deployed.pth"
    save_torchscript(torch.jit.load(str(file)), liar, manifest=manifest.to_text())
    seal(liar)
    cases = [(rattled((2, 2, 2)), "allegro", liar, ["fix 1 all nve", "run 5"])]
    jobs = jobs_on(f"device {device.name}", cases, tmp_path)
    (result,) = engine.run(jobs, environment=device.environment)
    assert "recording a step for replay failed" in result.error
    assert "keep list" in result.error
    jobs = jobs_on(f"device {device.name} keep list", cases, tmp_path)
    (result,) = engine.run(jobs, environment=device.environment)
    assert result.error == ""


def test_operators_for_processors_are_refused(device, alloy_model, engine, tmp_path):
    file = alloy_model("allegro", deploy={"operators": "fused", "bound": 1e-6})
    cases = [(rattled((1, 1, 1)), "allegro", file, ["run 0"])]
    jobs = jobs_on(f"device {device.name}", cases, tmp_path)
    (result,) = engine.run(jobs, environment=device.environment)
    assert "operators that this file calls are for processors" in result.error
    assert "--static-shapes" in result.error


def test_atoms_that_blow_up_stop_the_run(device, for_device, engine, tmp_path):
    lines = [
        "neigh_modify every 1000 delay 1000 check no",
        "fix 1 all nve",
        "run 5",
        "velocity all set 1e308 0 0",
        "timestep 1000",
        "run 5",
    ]
    cases = [(rattled((2, 2, 2)), "allegro", for_device("allegro"), lines)]
    jobs = jobs_on(f"device {device.name}", cases, tmp_path)
    (result,) = engine.run(jobs, environment=device.environment)
    assert "atom positions must be finite numbers" in result.error
