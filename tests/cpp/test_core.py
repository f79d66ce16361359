"""Builds and runs test_core.cpp: what of the core needs neither torch nor a running LAMMPS."""

import os
import random
import shutil
import subprocess
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from kan_md.builds.toolchain import find_compiler, find_toolchain
from kan_md.contract import Manifest

CORE = ("graph", "same_atoms", "manifest", "memory", "sha256", "tensor_output", "zip_directory")

# A comma in C's numbers; whole locales of languages are rarely installed.
COMMA = """
LC_CTYPE
copy "POSIX"
END LC_CTYPE
LC_COLLATE
copy "POSIX"
END LC_COLLATE
LC_NUMERIC
decimal_point ","
thousands_sep "."
grouping 3;3
END LC_NUMERIC
"""

FREE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 1000 kB\n"}
ROOTS = {
    "no groups": FREE,
    "version 2": FREE
    | {
        "proc/self/cgroup": "0::/job.slice/step\n",
        "sys/fs/cgroup/job.slice/memory.max": "800000\n",
        "sys/fs/cgroup/job.slice/memory.current": "400000\n",
        "sys/fs/cgroup/job.slice/memory.stat": "anon 300000\ninactive_file 100000\n",
        "sys/fs/cgroup/job.slice/step/memory.max": "max\n",
        "sys/fs/cgroup/job.slice/step/memory.current": "400000\n",
    },
    "version 1": FREE
    | {
        "proc/self/cgroup": "9:cpu,cpuacct:/a\n4:memory:/job/step\n0::/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "900000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "500000\n",
        "sys/fs/cgroup/memory/job/step/memory.limit_in_bytes": "400000\n",
        "sys/fs/cgroup/memory/job/step/memory.usage_in_bytes": "150000\n",
        "sys/fs/cgroup/memory/job/step/memory.stat": "total_inactive_file 50000\n",
    },
    "no limit": FREE
    | {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "150000\n",
    },
    "container": FREE
    | {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "500000\n",
        "sys/fs/cgroup/memory.current": "300000\n",
    },
    "full": FREE
    | {
        "proc/self/cgroup": "0::/../other\n",
        "sys/fs/cgroup/memory.max": "500000\n",
        "sys/fs/cgroup/memory.current": "600000\n",
    },
    "nothing known": {"proc/meminfo": "MemTotal: 9000 kB\n"},
}
"""Files of systems, by name of the case; what is available in each stands in test_core.cpp."""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    sources = Path(str(files("kan_md_pair_styles")))
    path = tmp_path_factory.mktemp("cpp") / "test_core"
    lammps = find_toolchain().lammps.include
    subprocess.run(
        [
            *(find_compiler(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp"),
            *("-I", str(sources), "-isystem", str(lammps)),
            str(Path(__file__).with_suffix(".cpp")),
            *(str(sources / "core" / f"{name}.cpp") for name in CORE),
            *("-o", str(path)),
        ],
        check=True,
    )
    return path


@pytest.fixture(scope="module")
def decimal_comma(tmp_path_factory):
    """Variables of a process whose C library has a decimal comma; none where none can be made."""
    folder = tmp_path_factory.mktemp("locale")
    (folder / "comma.src").write_text(COMMA)
    maker = shutil.which("localedef")
    if maker is None:
        return {}
    command = [maker, "-c", "-i", "comma.src", "-f", "ANSI_X3.4-1968", "./comma"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if not (folder / "comma" / "LC_NUMERIC").is_file():  # without the system's definitions
        return {}
    return {"LOCPATH": str(folder), "LC_ALL": "comma"}


def write_inputs(folder, level):
    generator = random.Random(0)
    text = "".join(generator.choice("abcde \n") for _ in range(20000)) + "repeat " * 5000
    (folder / "expected.txt").write_bytes(text.encode())
    with zipfile.ZipFile(folder / "archive.zip", "w", compresslevel=level) as archive:
        archive.writestr("model/stored.txt", text)
        archive.writestr("model/deflated.txt", text, compress_type=zipfile.ZIP_DEFLATED)
    for root, contents in ROOTS.items():
        for name, content in contents.items():
            path = folder / "roots" / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    manifest = Manifest(
        kan_md_version="0.1.0",
        torch_version="2.13.0",
        backend="torchscript",
        device="cpu",
        dtype="float32",
        backbone="nequip",
        r_max=4.25,
        num_layers=2,
        type_names=("Cu", "Au"),
        atomic_numbers=(29, 79),
        masses=(63.546, 196.967),
        cutoffs=(4.25, 4.125, 4.0, 3.5),
        isolated_energies=(-1.5, -2e-05),
        min_distances=(0.0, 2.125, 2.0, 1e-3),
        operators=("kan_md::allegro",),
    )
    (folder / "manifest.txt").write_text(manifest.to_text())


@pytest.mark.parametrize("level", [1, 9])
def test_core(program, decimal_comma, level, tmp_path):
    write_inputs(tmp_path, level)
    result = subprocess.run(
        [program, "archive.zip", "expected.txt", "roots", "manifest.txt"],
        cwd=tmp_path,
        env=os.environ | decimal_comma,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stdout
