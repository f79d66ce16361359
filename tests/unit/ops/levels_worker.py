"""One process with the kernels of one level of processors: ``python levels_worker.py JOB``.

JOB is a JSON file with paths: ``deployed`` and ``checkpoints`` by name, ``frames``, ``result``. The
result has energies and forces of each deployed file and, of models in training, all that is
computed of them, gradients of a loss included.
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np


def main(job: dict) -> None:
    import kan_md
    from kan_md.ops import load
    from kan_md.ops.library import level

    load()
    numbers = {"level": np.array(level())}
    frames = pickle.loads(Path(job["frames"]).read_bytes())
    for name, path in job["deployed"].items():
        model = kan_md.load(path)
        for n, atoms in enumerate(frames):
            found = model.predict(atoms)
            for key in ("energy", "forces"):
                numbers[f"{name}, structure {n}: {key}"] = np.asarray(found[key], dtype=float)
    for name, path in job["checkpoints"].items():
        numbers |= {f"training {name}: {key}": value for key, value in train(path, frames).items()}
    np.savez(job["result"], **numbers)


def train(path: str, frames: list) -> dict[str, np.ndarray]:
    """Results of a model in the form in which it trains, and gradients of a loss."""
    from forms_support import results
    from nequip.data import AtomicDataDict

    from kan_md.forms.choice import Form
    from kan_md.model.checkpoint import load_checkpoint
    from kan_md.model.reference import model_input
    from kan_md.ops import operators_in_layers

    checkpoint = load_checkpoint(path)
    model = checkpoint.build().train()
    inputs = [model_input(atoms, checkpoint.r_max, checkpoint.type_names) for atoms in frames]
    batch = AtomicDataDict.batched_from_list([AtomicDataDict.with_batch_(data) for data in inputs])
    with operators_in_layers():
        found = results(Form(model), model, batch)
    return {key: value.numpy() for key, value in found.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "forms"))
    main(json.loads(Path(sys.argv[1]).read_text()))
