"""What is kept of a run: one small JSON file, readable without the project."""

from __future__ import annotations

import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kan_md.benchmark.machine import describe_machine
from kan_md.errors import user_error
from kan_md.files import write_text

FORMAT = 1
_CURVE = ("epoch", "seconds", "lr", "val_loss", "train_loss")
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run that has ended.

    Attributes:
        name: for people; what the run is follows from the configuration alone.
        id: digest of the configuration.
        configuration: see :func:`kan_md.runs.identity.canonical`.
        data: digests of the data files, by name.
        results: what ``kan-md train`` says in metrics.json: errors per part (eV/atom, eV/Å, eV/Å³),
            parameters, epochs, seconds, versions, ...; empty where the run failed.
        curve: losses and errors of validation and training, a list per column, a value per epoch.
        machine: see :func:`kan_md.benchmark.machine.describe_machine`.
        threads: of the training; None where nobody said.
        commit: of the sources, empty where they are no checkout.
        failure: why the run failed; None where it did not.
        format: of the file.
    """

    name: str
    id: str
    configuration: dict[str, Any]
    data: dict[str, str]
    results: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, list[float | None]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    threads: int | None = None
    commit: str = ""
    failure: str | None = None
    format: int = FORMAT

    @property
    def is_done(self) -> bool:
        """Whether there are results."""
        return self.failure is None

    def error(self, name: str, part: str = "test") -> float | None:
        """An error of the best epoch's model, e.g. ``forces_mae``; None where it was not made."""
        return self.results.get("errors", {}).get(part, {}).get(name)


def write_record(record: Record, folder: Path) -> Path:
    """Write a record whole, one line per entry so that a curve is no page of its own."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in asdict(record).items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    return write_text(path_of(record.name, record.id, folder), text, make_folder=True)


def read_record(path: Path) -> Record:
    """Read a record; keys of later versions are left alone.

    Raises:
        KanMdError: the file is none.
    """
    try:
        content = json.loads(path.read_text())
        known = {key: content[key] for key in Record.__dataclass_fields__ if key in content}
        return Record(**known)
    except (OSError, ValueError, TypeError) as error:
        raise user_error(
            f"record of a run {path}",
            found=f"{type(error).__name__}: {error}",
            allowed="a file that kan-md wrote",
            remedy="remove it, and the run is done again",
        ) from error


def path_of(name: str, identity: str, folder: Path) -> Path:
    """Where a record is kept; its name begins with words and ends with what decides."""
    words = "".join(c if c.isalnum() or c in "._+" else "-" for c in name)
    return folder / f"{words}-{identity}.json"


def curve_of(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """The columns of log.csv that a figure needs, to six digits."""
    names = {name for row in rows for name in row}
    kept = [n for n in _CURVE if n in names]
    kept += sorted(n for n in names if n.endswith("_mae") and "per_structure" not in n)
    return {name: [_short(row.get(name)) for row in rows] for name in kept}


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None  # JSON has neither
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def commit_of(folder: Path) -> str:
    """Commit of a checkout, with a mark where files differ from it; empty where there is none."""
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return done.stdout.strip()


def count_commits(records: Iterable[Record]) -> str:
    """How many runs are of which commit: ``be90a79 (7 runs), ...``."""
    counted = Counter(record.commit or "not known" for record in records)
    return ", ".join(
        f"{commit} ({number} run{'s' * (number > 1)})" for commit, number in counted.items()
    )
