"""How long a deployed tensor model takes for a structure, from Python, neighbour lists included.

``python -m kan_md.evaluate.tensor_timing FILE STRUCTURES [--calls 20]`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import ase.io
import torch

_WARM_UP = 5  # TorchScript compiles during the first calls


def main() -> None:
    """Command line of the module."""
    from kan_md.allocator import tune_allocator
    from kan_md_deploy import load_deployed_tensors

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("structures", type=Path, help="the last one is taken")
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    tune_allocator()
    model = load_deployed_tensors(options.file)
    atoms = ase.io.read(options.structures)
    for _ in range(_WARM_UP):
        model.predict(atoms)
    times = []
    for _ in range(options.calls):
        start = time.perf_counter()
        model.predict(atoms)
        times.append(1e3 * (time.perf_counter() - start))
    found = {
        "ms_per_frame": statistics.median(times),
        "ms_error": statistics.stdev(times),
        "atoms": len(atoms),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
