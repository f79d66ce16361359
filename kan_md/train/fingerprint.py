"""What the data of a run are, however their files are called and spelt."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from kan_md.errors import user_error
from kan_md.tasks.targets import Target, label_weight

_STRUCTURES = "structures"


def fingerprint(
    parts: Mapping[str, Sequence[Atoms]], targets: Sequence[Target]
) -> dict[str, dict[str, Any]]:
    """Number and digests of structures and labels of each part.

    Args:
        parts: structures by part, in their order.
        targets: labels that there may be.

    Returns:
        By part: ``number``, and digests of ``structures`` and of each label by name.
    """
    return {
        part: {
            "number": len(frames),
            _STRUCTURES: _digest(map(_structure, frames)),
            **{t.name: _digest(_labels(atoms, t) for atoms in frames) for t in targets},
        }
        for part, frames in parts.items()
    }


def check_same_data(
    before: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
    learned: Collection[str],
) -> None:
    """Refuse other data than a run was trained with.

    Args:
        before: fingerprint of these; nothing is checked where it is empty.
        now: fingerprint of what was read.
        learned: names of the labels that were in a loss before.

    Raises:
        KanMdError: they differ.
    """
    for part, old in before.items():
        new = now.get(part, {"number": 0})
        names = [_STRUCTURES, *sorted(name for name in learned if name in old)]
        changed = [name for name in names if old[name] != new.get(name)]
        if not changed:
            continue
        if old["number"] != new["number"]:
            found, allowed = f"{new['number']} structures", f"the {old['number']} of before"
        elif changed[0] == _STRUCTURES:
            found, allowed = "other structures, or in another order", "those of before"
        else:
            found, allowed = f"other labels: {', '.join(changed)}", "those of before"
        raise user_error(
            f"data of a resumed run, {part} set",
            found=found,
            allowed=allowed,
            remedy="give the same data again, or start a new run (training.init_from takes the "
            "weights over)",
        )


def _structure(atoms: Atoms) -> list[object]:
    return [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc]


def _labels(atoms: Atoms, target: Target) -> list[object]:
    return [target.label(atoms), np.asarray(label_weight(atoms, target.name), float)]


def _digest(items: Iterable[Iterable[object]]) -> str:
    state = hashlib.sha256()
    for item in items:
        for value in item:
            if value is None:
                state.update(b"none")
                continue
            array = np.ascontiguousarray(value)
            state.update(f"{array.dtype.kind}{array.shape}".encode())
            state.update(array.tobytes())
    return state.hexdigest()
