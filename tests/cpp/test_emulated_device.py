"""The emulated accelerator computes what the CPU does, and refuses what a GPU would refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import emulated_device_checks as checks
import pytest
import torch
from emulated_device import LOG_VARIABLE

from kan_md.model.checkpoint import load_checkpoint
from kan_md_deploy.judged_graphs import reference_graphs

BACKBONES = ("allegro", "nequip", "mace")
CHECKS = sorted(
    name for name in vars(checks) if name.startswith("check_") and "deployed" not in name
)

PROGRAM = """
import sys
import torch
from emulated_device import DEVICE, load_emulated_device
load_emulated_device(sys.argv[1])
if sys.argv[2] == "use":
    torch.ones(3, dtype=torch.float64).to(DEVICE).sum().item()
"""


@pytest.fixture(scope="module")
def outcomes(emulated_device, deployed, tiny_checkpoint, tmp_path_factory):
    """Traceback or None of each check; all of them run in one process."""
    folder = tmp_path_factory.mktemp("emulated_device")
    for backbone in BACKBONES:
        (folder / backbone).mkdir()
        file = deployed(backbone, deploy={"passes": "none", "operators": "portable"})
        (folder / backbone / "model.pth").symlink_to(file)
        graph = reference_graphs(load_checkpoint(tiny_checkpoint(backbone)))[0]
        torch.save(graph, folder / backbone / "inputs.pt")
    return json.loads(run(checks.__file__, emulated_device, *BACKBONES, cwd=folder))


def run(*arguments, **options) -> str:
    """Output of a Python that finds the helpers of the tests."""
    helpers = str(Path(__file__).parents[1])
    environment = {"PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
    environment |= options.pop("env", {})
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [*CHECKS, *BACKBONES])
def test_emulated_device(outcomes, name):
    assert outcomes[name] is None, outcomes[name]


def test_counters_are_logged_at_exit(emulated_device, tmp_path):
    """Loaded by torch or before the program; of a program that does not use it there is nothing."""
    log = tmp_path / "log"
    preloaded = {"LD_PRELOAD": str(emulated_device)}
    for use, more in (("no", {}), ("use", {}), ("use", preloaded)):
        run("-c", PROGRAM, emulated_device, use, env={LOG_VARIABLE: str(log)} | more)
    first, second = map(json.loads, log.read_text().splitlines())
    assert first == second
    assert first["host_to_device"] == 1
    assert first["host_to_device_bytes"] == 24
    assert first["scalar_reads"] == 1
