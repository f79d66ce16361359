"""Models with fresh weights as checkpoints: for timing, and to start from."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np

from kan_md.backbones.build import build_model, upstream_names
from kan_md.backbones.readout_report import describe_readouts
from kan_md.errors import user_error
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.graph import periodic_edges
from kan_md.tasks.choose import task_of

DISPLACEMENT = 0.05
"""Å, standard deviation of the displacements in reference frames: forces of a perfect crystal
vanish by symmetry and would check nothing."""


def make_untrained(
    backbone: str,
    structures: Sequence[ase.Atoms],
    *,
    seed: int = 0,
    num_reference_frames: int = 2,
    **arguments: object,
) -> Checkpoint:
    """Build a model with fresh weights and wrap it as a checkpoint.

    Args:
        backbone: architecture.
        structures: decide the types and the mean number of neighbours where the arguments do not,
            and become the reference frames, with small random displacements.
        seed: decides every weight and displacement.
        num_reference_frames: how many structures to keep.
        **arguments: of :func:`kan_md.backbones.build.build_model`.

    Raises:
        KanMdError: no structures, no r_max, a negative seed, or an argument is refused.
    """
    if not structures:
        raise user_error(
            "a model needs at least one structure", found=0, allowed=None, remedy="give one"
        )
    r_max = arguments.get("r_max")
    if not isinstance(r_max, (int, float)) or not 0 < r_max < float("inf"):
        raise user_error("r_max must be > 0 Å", found=r_max, allowed=None, remedy="set r_max")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise user_error(
            "seed must be >= 0", found=repr(seed), allowed="a whole number", remedy="set --seed"
        )
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    config = {
        "model_dtype": "float32",
        "type_names": symbols,
        **upstream_names(backbone, arguments),
        "seed": seed,
    }
    if config.get("avg_num_neighbors") is None:
        config["avg_num_neighbors"] = mean_neighbors(structures, float(r_max))
    model = build_model(backbone, **config)
    rng = np.random.default_rng(seed)
    frames = []
    for atoms in structures[:num_reference_frames]:
        copy = atoms.copy()
        copy.positions += rng.normal(0.0, DISPLACEMENT, copy.positions.shape)
        frames.append(copy)
    return Checkpoint(
        backbone=backbone,
        config={"model": config},
        type_names=list(config["type_names"]),
        r_max=float(r_max),
        state_dict=model.state_dict(),
        statistics={"avg_num_neighbors": config["avg_num_neighbors"]},
        reference_frames=task_of(backbone, config).reference_frames(model, frames),
        training_summary={"trained": False, "readouts": describe_readouts(model, backbone)},
    )


def mean_neighbors(structures: Sequence[ase.Atoms], r_max: float) -> float:
    """Mean number of neighbours within r_max (Å) over all atoms; at least 1."""
    edges = sum(periodic_edges(atoms, r_max).edge_index.shape[1] for atoms in structures)
    return max(1.0, edges / sum(map(len, structures)))
