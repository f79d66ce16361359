"""How long a training step takes in each form of a model, and the memory at its peak.

``python step_timing.py MODEL`` prints JSON: milliseconds of a step in every form, which take turns,
their ratios and the memory that a step adds to a process of its own. The form ``upstream`` calls
the modules that nequip-train calls, or MACE's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kan_md.backbones.build import build_model
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.benchmark.statistics import median_and_spread
from kan_md.forms.choice import Form
from kan_md.model.reference import model_input
from kan_md.ops import operators_in_layers

TYPES = ("Hf", "O")
README = {
    "backbone": "allegro",
    "r_max": 5.0,
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 64,
    "num_tensor_features": 16,
}
SMALL = README | {
    "r_max": 4.5,
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 32,
    "num_tensor_features": 8,
}
NEQUIP = {"backbone": "nequip", "r_max": 5.0, "l_max": 2, "num_layers": 3, "num_features": 32}
MACE = {
    "backbone": "mace",
    "r_max": 5.0,
    "hidden_irreps": "64x0e + 64x1o",
    "max_ell": 3,
    "correlation": 3,
}
LOCAL_MACE = MACE | {"num_interactions": 1, "hidden_irreps": "16x0e"}
MODELS: dict[str, Mapping] = {
    "Allegro, Gaussian KAN": README,
    "Allegro, B-spline KAN": README | {"readout": {"basis": "bspline"}},
    "Allegro, Fourier KAN": README | {"readout": {"basis": "fourier"}},
    "Allegro, MLP": README | {"readout": "mlp"},
    "Allegro, linear readout": README | {"readout": "linear"},
    "small Allegro, Gaussian KAN": SMALL,
    "small Allegro, MLP": SMALL | {"readout": "mlp"},
    "NequIP, Gaussian KAN": NEQUIP,
    "NequIP, MLP": NEQUIP | {"readout": "mlp"},
    "MACE, Gaussian KAN": MACE,
    "MACE, MLP": MACE | {"readout": "mlp"},
    "one-layer MACE, Gaussian KAN": LOCAL_MACE,
    "one-layer MACE, MLP": LOCAL_MACE | {"readout": "mlp"},
}
FORMS = ("upstream", "fast")
_WARM_UP = 1
_PRODUCT, _PRODUCTS = 1024, 10


def make_model(model: str | Mapping) -> GraphModel:
    """One of :data:`MODELS`, or one of such hyperparameters, with fresh weights, float32."""
    arguments = {"readout": {}, **(MODELS[model] if isinstance(model, str) else model)}
    with nequip_settings():
        built = build_model(
            seed=1,
            model_dtype="float32",
            type_names=list(TYPES),
            avg_num_neighbors=44.0,
            per_type_energy_shifts=dict.fromkeys(TYPES, 0.0),
            per_type_energy_scales=1.0,
            **arguments,
        )
    return built.train()


def make_batch(r_max: float, cells: int) -> AtomicDataDict.Type:
    """Frames of rattled fluorite, 96 atoms each, two per batch."""
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(2):
        atoms = bulk("HfO2", "fluorite", a=5.1, cubic=True) * (2, 2, cells)
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        frames.append(AtomicDataDict.with_batch_(model_input(atoms, r_max, TYPES)))
    return AtomicDataDict.batched_from_list(frames)


def training_step(
    call: Callable, model: GraphModel, batch: AtomicDataDict.Type, *, form: str
) -> Callable[[], None]:
    """A step of Adam on squared errors of energies, forces and stresses against zero.

    The gradient is taken by the parameters alone, as ``kan-md train`` does, or by all that the
    forces were made of, as ``nequip-train`` and ``mace_run_train`` do for the form ``upstream``.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-6)
    alone = {} if form == "upstream" else {"inputs": [p for p in parameters if p.requires_grad]}
    labels = (
        AtomicDataDict.TOTAL_ENERGY_KEY,
        AtomicDataDict.FORCE_KEY,
        AtomicDataDict.STRESS_KEY,
    )

    def step() -> None:
        optimizer.zero_grad()
        out = call(dict(batch))
        sum(out[label].square().mean() for label in labels).backward(**alone)
        optimizer.step()

    return step


def _times(name: str, calls: int, cells: int) -> dict:
    batch = make_batch(MODELS[name]["r_max"], cells)
    steps = {}
    for form in FORMS:
        model = make_model(name)
        steps[form] = training_step(Form(model, form), model, batch, form=form)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(_WARM_UP + calls):
        for form, step in steps.items():
            start = time.perf_counter()
            step()
            if number >= _WARM_UP:
                times[form].append(1e3 * (time.perf_counter() - start))
    ratios = [new / old for new, old in zip(times["fast"], times["upstream"], strict=True)]
    return {
        "atoms": len(batch[AtomicDataDict.POSITIONS_KEY]),
        "edges": batch[AtomicDataDict.EDGE_INDEX_KEY].shape[1],
        "ms": {form: median_and_spread(values) for form, values in times.items()},
        "ratio": median_and_spread(ratios),
    }


def _limit(name: str, cells: int) -> float:
    """Milliseconds that the matrix products of a step would take at the rate of a large one.

    Those of the form in plain torch, where a sum over edges is one of them; what is no matrix
    product (harmonics, SiLU, KAN functions, gathering) is not counted.
    """
    model, batch = make_model(name), make_batch(MODELS[name]["r_max"], cells)
    step = training_step(Form(model, "fast"), model, batch, form="fast")
    with _Operations() as operations:
        step()
    return 1e3 * operations.number / _product_rate()


class _Operations(TorchDispatchMode):
    """Counts the operations of matrix products, by torch's own formulae.

    torch's FlopCounterMode puts hooks on modules, which gradients of positions do not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            formula = flop_registry[func._overloadpacket]
            self.number += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _product_rate() -> float:
    """Floating-point operations per second of a large matrix product in float32."""
    a, b = torch.rand(_PRODUCT, _PRODUCT), torch.rand(_PRODUCT, _PRODUCT)
    times = []
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * _PRODUCT**3 / min(times)


def _peak(name: str, form: str, cells: int) -> float:
    """MiB that two steps add at most to what the process had before."""
    model, batch = make_model(name), make_batch(MODELS[name]["r_max"], cells)
    step = training_step(Form(model, form), model, batch, form=form)
    before = _memory("VmRSS")
    step()
    step()
    return _memory("VmHWM") - before


def _memory(field: str) -> float:
    """MiB of this process, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(field))
    return int(value) / 1024


def _peak_elsewhere(name: str, form: str, cells: int) -> float:
    command = [sys.executable, __file__, name, "--memory", form, "--cells", str(cells)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    from kan_md.allocator import tune_allocator

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--cells", type=int, default=2, help="cells along z of each frame")
    parser.add_argument("--memory", choices=FORMS, help="peak memory of this form alone")
    options = parser.parse_args(arguments)
    tune_allocator()
    limit = None if options.memory else _limit(options.model, options.cells)
    with operators_in_layers() as available:
        if options.memory is not None:
            found: object = _peak(options.model, options.memory, options.cells)
        else:
            found = _times(options.model, options.calls, options.cells)
            found |= {
                "kernels": available,
                "limit": limit,
                "threads": torch.get_num_threads(),
                "peak": {f: _peak_elsewhere(options.model, f, options.cells) for f in FORMS},
            }
    print(json.dumps(found))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
