"""Holding labelled structures against what training needs, before any time is spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms

from kan_md.data.label_report import LabelReport, source_of
from kan_md.errors import KanMdError, user_error
from kan_md.model.cells import SMALLEST_VOLUME
from kan_md.tasks.targets import Target


def check_structures(frames: Sequence[Atoms], what: str) -> None:
    """Refuse empty sets and structures that are none.

    Args:
        frames: structures as :func:`kan_md.data.read_frames` gives them.
        what: the set, for the message, e.g. ``train set``.

    Raises:
        KanMdError: the set or a structure is empty, an element is unknown, or a number not finite.
    """
    if not frames:
        raise user_error(
            f"{what} is empty",
            found="0 structures",
            allowed="one or more",
            remedy="give more structures or change data.split",
        )
    for atoms in frames:
        if len(atoms) == 0:
            raise _bad(atoms, "has no atoms", "0 atoms")
        if 0 in atoms.numbers:
            raise _bad(atoms, "has an unknown element", "X")
        if not np.isfinite(atoms.positions).all():
            raise _bad(atoms, "has positions that are not finite", "NaN or infinity")
        periodic = atoms.cell.array[atoms.pbc]
        if not np.isfinite(periodic).all() or not (np.linalg.norm(periodic, axis=1) > 0).all():
            raise _bad(atoms, "is periodic without a cell vector", atoms.cell.array.tolist())
        flat = len(periodic) and float(atoms.cell.volume) <= SMALLEST_VOLUME
        if flat and np.linalg.matrix_rank(periodic) < len(periodic):
            raise _bad(atoms, "has cell vectors in one plane", atoms.cell.array.tolist())


def check_labels(
    frames: Sequence[Atoms],
    targets: Iterable[Target],
    *,
    what: str = "data",
    complete: Iterable[str] = (),
    report: LabelReport | None = None,
    remedy: str = "",
) -> None:
    """Every label that is asked for is there, and numbers are numbers; NaN is a missing label.

    Args:
        frames: structures.
        targets: what has to be there, in one structure or more.
        what: the set, for the message.
        complete: names of targets that every structure has to have.
        report: of the labels, for the message.
        remedy: what else can be done about a label that is absent, with ``{}`` for its name.

    Raises:
        KanMdError: labels are missing everywhere, or in some frames where they may not, or are
            infinite.
    """
    for target in targets:
        labels = [target.label(atoms) for atoms in frames]
        missing = [atoms for atoms, label in zip(frames, labels, strict=True) if label is None]
        if len(missing) == len(frames):
            named = f", or name the labels with data.keys.{target.name}" * target.named_by_key
            raise user_error(
                f"{what} without {target.name}",
                found=f"{len(frames)} structures, none with {target.name}"
                + (f" (they have {report.about(target.name)})" if report else ""),
                allowed=None,
                remedy=f"label them{named}{remedy.format(target.name)}",
            )
        if missing and target.name in complete:
            raise user_error(
                f"mixed labels: {target.name}",
                found=f"{len(missing)} of {len(frames)} structures without it, "
                f"the first is {source_of(missing[0])}",
                allowed=None,
                remedy="label all structures"
                + (" or set data.missing_stress: mask" if target.name == "stress" else ""),
            )
        for atoms, label in zip(frames, labels, strict=True):
            if label is not None and np.isinf(label).any():
                raise _bad(atoms, f"has an infinite {target.name}", "infinity")


def check_elements(frames: Sequence[Atoms], type_names: Sequence[str]) -> None:
    """No structure has an element that the model does not know.

    Raises:
        KanMdError: one has.
    """
    for atoms in frames:
        unknown = sorted(set(atoms.symbols) - set(type_names))
        if unknown:
            raise user_error(
                f"element that the model does not know in {source_of(atoms)}",
                found=", ".join(unknown),
                allowed=", ".join(type_names),
                remedy="remove the structure, or train a model that has the element",
            )


def _bad(atoms: Atoms, what: str, found: object) -> KanMdError:
    return user_error(
        f"structure {source_of(atoms)} {what}", found=found, allowed=None, remedy="correct the file"
    )
