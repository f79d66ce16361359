"""Makes a model of a published shape, and says what upstream's own code says of a structure.

``python -m results.experiments.foundation_make KEY FOLDER`` writes upstream's file and
``expected.json`` into the folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from results.experiments.foundation_shapes import shapes
from results.experiments.foundation_structure import structure
from results.experiments.variants_models import SMALL, Variant, make


def main(key: str, folder: Path) -> None:
    """Write the model's file and what it says."""
    (shape,) = (shape for shape in shapes() if shape.key == key)
    kept = ("kind", "gate", "atomic_inter_scale", "atomic_inter_shift", "model_dtype", "_target_")
    others = (*kept, "seed", "per_type_energy_scales")
    without = tuple(set(SMALL[shape.backbone]) - set(others) - set(shape.arguments))
    variant = Variant(shape.backbone, "", shape.name, changes=shape.arguments, without=without)
    made = make(variant, folder)
    atoms = structure(shape)
    said = made.says(atoms)
    found = {
        "file": made.file.name,
        "parameters": count_parameters(made.file),
        "energy": said.energy,
        "forces": said.forces.tolist(),
    }
    (folder / "expected.json").write_text(json.dumps(found))


def count_parameters(file: Path) -> int:
    """Numbers that training changes."""
    saved = torch.load(file, map_location="cpu", weights_only=False)
    if isinstance(saved, torch.nn.Module):
        return sum(p.numel() for p in saved.parameters())
    return sum(v.numel() for v in saved["state_dict"].values() if v.is_floating_point())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
