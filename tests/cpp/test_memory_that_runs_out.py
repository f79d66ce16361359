"""Memory that runs out in a thread is an exception, not the end of the program without a word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kan_md.model.checkpoint import load_checkpoint
from kan_md_deploy import load_deployed
from kan_md_deploy.judged_graphs import reference_graphs

PROGRAM = """
import ctypes, json, sys
import torch
from ops_support import random_graph
from test_convolution import NEQUIP_LIKE, arguments
from kan_md.ops import load

load()
torch.set_num_threads(2)
operators = torch.ops.kan_md
fail = ctypes.CDLL(sys.argv[1]).kan_md_fail_new
args = arguments(NEQUIP_LIKE, random_graph(7, 60), torch.float32, num_pairs=1)
vectors, x = args[0].requires_grad_(True), args[1].requires_grad_(True)
out = operators.convolution(*args)
allegro = torch.jit.load(sys.argv[2])
inputs = torch.load(sys.argv[3])
said = {}
for name, call in {
    "convolution": lambda: operators.convolution(*args),
    "convolution_backward": lambda: torch.autograd.grad(out.sum(), [vectors, x]),
    "allegro": lambda: allegro(*inputs),
}.items():
    fail(1)
    try:
        call()
        said[name] = ""
    except (RuntimeError, MemoryError) as error:
        said[name] = str(error)
    finally:
        fail(0)
said["afterwards"] = allegro(*inputs)[0].sum().item()
print(json.dumps(said))
"""


def test_operators_throw_what_their_threads_threw(failing_new, deployed, tiny_checkpoint, tmp_path):
    file = deployed("allegro", deploy={"operators": "fused", "bound": 1e-6})
    inputs = reference_graphs(load_checkpoint(tiny_checkpoint("allegro")))[0]
    torch.save(inputs, tmp_path / "inputs.pt")
    helpers = Path(__file__).parents[1] / "unit" / "ops"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", PROGRAM),
            *map(str, (failing_new, file, tmp_path / "inputs.pt")),
        ],
        env=os.environ | {"LD_PRELOAD": str(failing_new), "PYTHONPATH": str(helpers)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for name in ("convolution", "convolution_backward", "allegro"):
        assert "bad_alloc" in said[name], (name, said[name])
    expected = load_deployed(file)(*inputs)[0].sum().item()
    assert said["afterwards"] == pytest.approx(expected, rel=1e-9)
