"""How long a training step takes by the output block of a model, everything else the same.

``python readout_steps.py BACKBONE`` prints JSON: milliseconds of processor time of a step in the
form that ``kan-md train`` takes, readouts in turns, and the ratio to the MLP.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping

from kan_md.allocator import tune_allocator
from kan_md.benchmark.statistics import median_and_spread
from kan_md.forms.choice import Form
from kan_md.ops import operators_in_layers
from results.experiments.step_timing import (
    LOCAL_MACE,
    MACE,
    NEQUIP,
    README,
    make_batch,
    make_model,
    training_step,
)

CONTROL = "MLP"
KANS: dict[str, Mapping] = {
    "Gaussian KAN": {},
    "B-spline KAN": {"basis": "bspline"},
    "Fourier KAN": {"basis": "fourier"},
    "Gaussian KAN, projection 8": {"projection": 8},
}
BACKBONES: dict[str, tuple[Mapping, dict[str, Mapping]]] = {
    "Allegro": (README, {"MLP of 64": {"kind": "mlp", "hidden": [64]}}),
    "NequIP": (NEQUIP, {}),
    "MACE": (MACE, {}),
    "one-layer MACE": (LOCAL_MACE, {}),
}
"""With readouts besides: the MLP of 64 is as wide as the KAN's inputs, so that what it takes more
than the small one is matrices, and what the KAN takes more than it is functions."""
_WARM_UP = 2


def measure(backbone: str, calls: int, cells: int) -> dict[str, dict]:
    """Times of a backbone's readouts.

    Args:
        backbone: of :data:`BACKBONES`.
        calls: timed steps of each.
        cells: along z of each frame.

    Returns:
        By readout ``ms`` and ``ratio`` to :data:`CONTROL`, median and standard deviation each, the
        latter over the ratios of each turn.
    """
    sizes, others = BACKBONES[backbone]
    batch, steps = make_batch(sizes["r_max"], cells), {}
    for label, readout in {CONTROL: {"kind": "mlp"}, **others, **KANS}.items():
        model = make_model({**sizes, "readout": dict(readout)})
        steps[label] = training_step(Form(model, "fast"), model, batch, form="fast")
    times: dict[str, list[float]] = {label: [] for label in steps}
    with operators_in_layers():
        for number in range(_WARM_UP + calls):
            for label, step in steps.items():
                start = time.process_time()
                step()
                if number >= _WARM_UP:
                    times[label].append(1e3 * (time.process_time() - start))
    return {
        label: {
            "ms": median_and_spread(values),
            "ratio": median_and_spread(
                [one / other for one, other in zip(values, times[CONTROL], strict=True)]
            ),
        }
        for label, values in times.items()
    }


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone", choices=BACKBONES)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--cells", type=int, default=2, help="cells along z of each frame")
    options = parser.parse_args()
    tune_allocator()
    found = measure(options.backbone, options.calls, options.cells)
    print(json.dumps(found))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
