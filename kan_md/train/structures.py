"""From the files of a configuration to the structures of each part, and what was left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from kan_md.config.schema import DataConfig
from kan_md.data.checks import check_structures
from kan_md.data.identity import shared
from kan_md.data.label_report import LabelReport, source_of, structures
from kan_md.data.labels import check_keys
from kan_md.data.reading import read_frames
from kan_md.data.splitting import PARTS, Sizes, split_counts, split_indices
from kan_md.errors import user_error
from kan_md.tasks.targets import Target

_REPLAY = "replay"

Note = tuple[str, str]
"""A heading and what is said below it."""


def grouped(notes: Sequence[Note]) -> list[Note]:
    """Notes of one heading together, warnings last."""
    headings = sorted(dict.fromkeys(heading for heading, _ in notes), key="warning".__eq__)
    return [note for wanted in headings for note in notes if note[0] == wanted]


def note_lines(notes: Sequence[Note]) -> list[str]:
    """Notes with their headings in a column, each heading once."""
    width = max((len(heading) for heading, _ in notes), default=0)
    lines, before = [], None
    for heading, text in notes:
        lines.append(f"  {'' if heading == before else heading:<{width}}  {text}")
        before = heading
    return lines


@dataclass
class Parts:
    """Structures by part.

    Attributes:
        frames: by part, ``test`` may be empty.
        isolated: isolated atoms by part of the files they come from; those of ``train`` hold
            reference energies.
        report: of the labels.
        notes: what a user should know.
    """

    frames: dict[str, list[Atoms]]
    isolated: dict[str, list[Atoms]]
    report: LabelReport
    notes: list[Note] = field(default_factory=list)


def read_parts(
    data: DataConfig, targets: Sequence[Target], *, sort_out: Callable[[Parts], None]
) -> Parts:
    """Read, sort out and divide the structures of a configuration.

    Args:
        data: where they are, and how they are divided.
        targets: what is learned; structures without any of it are left out.
        sort_out: takes out structures that serve another end.

    Raises:
        KanMdError: a file or a structure cannot be used, or there are too few.
    """
    keys, report = data.keys.model_dump(), LabelReport()
    parts_of_files = (*PARTS, _REPLAY)
    files = {p: getattr(data, p) for p in parts_of_files if getattr(data, p) is not None}
    frames = {part: read_frames(paths, keys, report=report) for part, paths in files.items()}
    check_keys(report, keys)
    check_structures([atoms for found in frames.values() for atoms in found], "data")
    parts = Parts(dict(frames), {part: [] for part in PARTS}, report)
    parts.notes += [("labels", line) for line in report.lines()]
    sort_out(parts)
    _leave_out_unlabelled(parts, targets)
    replayed = parts.frames.pop(_REPLAY, [])
    _divide(parts, data, lost=len(frames["train"]) - len(parts.frames["train"]))
    _replay(parts, replayed, data)
    _note_shared(parts)
    return parts


def _replay(parts: Parts, frames: list[Atoms], data: DataConfig) -> None:
    """Let structures of another training join the training set."""
    if not frames:
        return
    size = data.replay_size
    count = len(frames) if size is None else size
    count = round(count * len(frames)) if isinstance(count, float) else min(count, len(frames))
    order = np.random.default_rng(data.split.seed).permutation(len(frames))
    parts.frames["train"] = parts.frames["train"] + [frames[i] for i in sorted(order[:count])]
    text = f"{count} of {structures(len(frames))} join the training set"
    parts.notes.append((_REPLAY, text))


def _leave_out_unlabelled(parts: Parts, targets: Sequence[Target]) -> None:
    """Structures without anything to learn; data without any labels are refused elsewhere.

    Raises:
        KanMdError: nothing of a file for training or validation would remain.
    """
    kept = {
        part: [a for a in frames if any(target.label(a) is not None for target in targets)]
        for part, frames in parts.frames.items()
    }
    if not any(kept.values()):
        return
    names = ", ".join(target.name for target in targets)
    for part in ("train", "val"):
        if parts.frames.get(part) and not kept[part]:
            raise user_error(
                f"data.{part} without {names}",
                found=f"{structures(len(parts.frames[part]))}, none with what is learned",
                allowed=None,
                remedy="label them, or name other structures",
            )
    lost = [
        atoms
        for part, frames in parts.frames.items()
        for atoms in frames
        if all(target.label(atoms) is None for target in targets)
    ]
    if lost:
        parts.notes.append(
            ("left out", f"{structures(len(lost))} without {names} (first {source_of(lost[0])})")
        )
    parts.frames = kept


def _divide(parts: Parts, data: DataConfig, *, lost: int) -> None:
    """Take what has no file of its own from the training frames.

    Args:
        parts: changed in place.
        data: how to divide.
        lost: structures of the training files that were left out. Where a number of training
            structures is asked for, they are missing there.
    """
    split, frames = data.split, parts.frames["train"]
    given = [name for name in PARTS if getattr(split, name) is not None]
    if not data.divided:
        parts.frames = {part: parts.frames.get(part, []) for part in PARTS}
        if any(isinstance(getattr(split, name), int) for name in given):
            parts.notes.append(
                ("split", "not used: beside a file for data.val all structures of data.train train")
            )
        return
    if len(frames) < 2:
        raise user_error(
            "too few structures to divide into training and validation",
            found=f"{len(frames)}" + f" ({lost} left out)" * bool(lost),
            allowed=">= 2",
            remedy="give more structures or data.val",
        )
    indices = split_indices(
        len(frames),
        _counts(data, len(frames), lost),
        method=split.method,
        seed=split.seed,
        blocks=split.blocks,
    )
    divided = {part: [frames[i] for i in chosen] for part, chosen in indices.items()}
    found = {"test": [], **parts.frames, **divided}
    parts.frames = {part: found[part] for part in PARTS}
    unused = len(frames) - sum(map(len, divided.values()))
    if unused:
        parts.notes.append(("left out", f"{structures(unused)} that data.split does not ask for"))


def _counts(data: DataConfig, number: int, lost: int) -> Sizes:
    """What ``split`` asks of the training frames; a part with a file does not count."""
    sizes = {part: getattr(data.split, part) for part in PARTS}
    filed = [sizes[part] for part in PARTS if part not in data.divided]
    left = 1.0 - sum(size for size in filed if isinstance(size, float))
    sizes = {
        part: min(1.0, sizes[part] / left) if isinstance(sizes[part], float) else sizes[part]
        for part in data.divided
    }
    if not lost or not isinstance(sizes["train"], int):
        return sizes
    counts = split_counts(number + lost, sizes)
    short = max(0, sum(counts.values()) - number)
    return {**counts, "train": counts["train"] - short} if counts["train"] > short else sizes


def _note_shared(parts: Parts) -> None:
    for part in ("val", "test"):
        same = shared(parts.frames[part], parts.frames["train"])
        if same:
            parts.notes.append(
                (
                    "warning",
                    f"{len(same)} of {len(parts.frames[part])} {part} structures are in "
                    f"the training set too: their errors say nothing (first {source_of(same[0])})",
                )
            )
    same = shared(parts.frames["test"], parts.frames["val"])
    if same:
        parts.notes.append(
            (
                "warning",
                f"{len(same)} of {len(parts.frames['test'])} test structures are in the "
                f"validation set too (first {source_of(same[0])})",
            )
        )
