"""Models of published shapes, from upstream's file to LAMMPS.

``python -m results.experiments.foundation --output results`` goes through
:mod:`results.experiments.foundation_shapes` and writes foundation.md and foundation.json. Every
step of a shape is a process of its own, whose time and memory are counted. What is there is not
done again (``--fresh`` does it), and every step is kept as it comes, so that a run can be
interrupted; ``--only TEXT`` takes the shapes whose names hold it, ``--atoms N`` the structures to
time on; ``--draw`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from kan_md.benchmark.compare import Conditions, compare
from kan_md.benchmark.log import last_line
from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.models import Entry, deployed_entry
from kan_md.benchmark.report import save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError, user_error
from kan_md.lammps.run import lammps_environment
from results.experiments.foundation_page import page
from results.experiments.foundation_shapes import Shape, shapes
from results.experiments.foundation_structure import REPEATS, structure

NAME = "foundation"
COMPILE_LIMIT = 900
"""s that nequip-compile may take."""
_MACE_TORCH = Path(__file__).with_name("mace_torch.py")
_NEQUIP_COMPILE = Path(__file__).with_name("nequip_compile.py")
_SECONDS = 15.0
"""Of the timed steps of a model."""


@dataclass(frozen=True)
class Spent:
    """What a process took.

    Attributes:
        cpu_s: s of user and system time.
        wall_s: s.
        peak_gb: GB, largest resident set.
    """

    cpu_s: float
    wall_s: float
    peak_gb: float


def measured(*command: object, what: str, timeout: float | None = None) -> Spent:
    """Run a process to its end and say what it took.

    Raises:
        KanMdError: it failed, or took too long; the message carries the last line of its output.
    """
    # /proc's high-water mark is gone with the process: a small parent waits for it and tells.
    words = [sys.executable, str(Path(__file__).with_name("spent.py")), *map(str, command)]
    environment = lammps_environment(threads=1, ranks=1)
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise KanMdError(f"{what} took more than {timeout:.0f} s") from error
    *_, report = done.stderr.splitlines() or [""]
    if done.returncode != 0:
        lines = done.stderr.splitlines()[:-1]
        raise KanMdError(f"{what} failed: {last_line(chr(10).join(lines)) or done.stdout[-300:]}")
    return Spent(**json.loads(report))


class Row:
    """Takes one shape as far as it goes and keeps what is known of it.

    Args:
        shape: the shape.
        known: what earlier runs found; added to.
        folder: for files.
        save: called after each step.
    """

    def __init__(self, shape: Shape, known: dict, folder: Path, save: Callable[[], None]):
        self.shape, self.known, self.folder, self._save = shape, known, folder, save
        self.known.setdefault("errors", {}).pop("upstream", None)
        self.model, self.file = folder / "model.pth", folder / "model.deployed.pth"

    def step(self, name: str, do: Callable[[], object]) -> bool:
        """Do a step, or say why it cannot be done; whether it is done."""
        try:
            self.known[name] = do()
            self.known["errors"].pop(name, None)
        except KanMdError as error:
            self.known["errors"][name] = str(error)
        self._save()
        return name not in self.known["errors"]

    def make(self) -> dict:
        """Let upstream make its file."""
        module = "results.experiments.foundation_make"
        measured(sys.executable, "-m", module, self.shape.key, self.folder, what="making")
        return json.loads((self.folder / "expected.json").read_text())

    def convert(self) -> dict:
        """``kan-md convert``."""
        source = self.folder / self.known["made"]["file"]
        words = ("convert", source, "-o", self.model, "--trust", "--overwrite")
        return asdict(measured(sys.executable, "-m", "kan_md", *words, what="convert"))

    def deploy(self) -> dict:
        """``kan-md deploy``."""
        words = ("deploy", self.model, "-o", self.file, "--overwrite")
        spent = measured(sys.executable, "-m", "kan_md", *words, what="deploy")
        manifest = deployed_entry(str(self.file)).manifest
        return asdict(spent) | {
            "bytes": self.file.stat().st_size,
            "dtype": manifest.dtype,
            "passes": [n for n, report in manifest.passes.items() if not report.get("skipped")],
        }

    def in_lammps(self) -> dict:
        """Time of ``pair_coeff`` and differences from upstream."""
        xyz, output = self.folder / "structure.xyz", self.folder / "lammps.json"
        structure(self.shape).write(xyz)
        module = "results.experiments.foundation_lammps"
        spent = measured(sys.executable, "-m", module, self.file, xyz, output, what="LAMMPS")
        found, expected = json.loads(output.read_text()), self.known["made"]
        forces = np.array(expected.pop("forces"))
        largest = float(np.abs(forces).max())
        return {
            **{key: found[key] for key in ("pair_coeff_s", "pair_coeff_cpu_s")},
            "peak_gb": spent.peak_gb,
            "largest_force": largest,
            "force_error": float(np.abs(np.array(found["forces"]) - forces).max()) / largest,
            "energy_error": abs(found["energy"] - expected["energy"]) / len(forces),
        }

    def upstream(self) -> Entry:
        """What upstream's users run, as a row of a comparison."""
        ours = deployed_entry(str(self.file))
        if self.shape.backbone == "mace":
            options = {"form": "scripted", "file": str(self.folder / self.known["made"]["file"])}
            return replace(ours, label="upstream", program=_MACE_TORCH, options=options)
        xyz, file = self.folder / "compiled-for.xyz", self.folder / "model.nequip.pt2"
        if not file.exists():
            structure(self.shape, REPEATS[64]).write(xyz)
            words = (sys.executable, _NEQUIP_COMPILE, self.model, xyz, file)
            self.known["compile"] = asdict(
                measured(*words, what="nequip-compile", timeout=COMPILE_LIMIT)
            )
        entry = deployed_entry(str(file), pair_style=self.shape.backbone)
        return replace(entry, label="upstream")

    def time(self, num_atoms: int) -> dict:
        """Milliseconds of processor time per step, beside upstream where that can be had."""
        atoms = structure(self.shape, REPEATS[num_atoms])
        ours = replace(deployed_entry(str(self.file)), label="kan-md")
        few = num_atoms > 64
        conditions = Conditions(
            steps=200, seconds=_SECONDS, blocks=1 if few else 3, warmup=2, tether=5.0
        )
        entries = [ours]
        if "upstream" not in self.known["errors"]:
            try:
                entries.append(self.upstream())
            except KanMdError as error:
                self.known["errors"]["upstream"] = str(error)
        report = compare(entries, atoms, conditions=conditions)
        return {
            row.label: {
                "cpu_ms": row.cpu_ms_per_step,
                "median_ms": row.ms_per_step,
                "steps": row.steps,
                "peak_mib": row.peak_rss_mib,
                "edges_per_atom": row.edges_per_atom,
            }
            for row in report.rows
        }

    def run(self, sizes: Sequence[int]) -> None:
        """All steps."""
        _ = (
            self.step("made", self.make)
            and self.step("convert", self.convert)
            and self.step("deploy", self.deploy)
            and self.step("lammps", self.in_lammps)
            and all([self.step(f"{n} atoms", lambda n=n: self.time(n)) for n in sizes])
        )


def _load(output: Path) -> dict:
    path = output / f"{NAME}.json"
    if path.exists():
        return json.loads(path.read_text())
    return {"machine": machine_line(describe_machine()), "rows": {}}


def _save(stored: dict, output: Path) -> None:
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    save_atomically(output / f"{NAME}.json", lambda part: part.write_text(text + "\n"))


def _is_done(row: dict | None, sizes: Sequence[int]) -> bool:
    return row is not None and all(f"{n} atoms" in row for n in sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--only", action="append", help="part of a name; repeatable")
    parser.add_argument("--atoms", action="append", type=int, choices=list(REPEATS))
    parser.add_argument("--fresh", action="store_true", help="do again what is chosen")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    sizes = options.atoms or list(REPEATS)
    try:
        check_folder(options.output)
        chosen = [s for s in shapes() if not options.only or any(t in s.name for t in options.only)]
        if not chosen:
            raise user_error(
                "no shape of that name",
                found=", ".join(options.only),
                allowed=", ".join(shape.name for shape in shapes()),
                remedy="change --only",
            )
        stored = _load(options.output)
        rows = stored["rows"]
        for shape in [] if options.draw else chosen:
            if _is_done(rows.get(shape.name), sizes) and not options.fresh:
                continue
            rows[shape.name] = {} if options.fresh else rows.get(shape.name, {})
            with tempfile.TemporaryDirectory(prefix="kan-md-") as folder:
                save = lambda: _save(stored, options.output)  # noqa: E731
                Row(shape, rows[shape.name], Path(folder), save).run(sizes)
            said = "; ".join(f"{k}: {v}" for k, v in rows[shape.name]["errors"].items()) or "ok"
            console.print(f"{shape.name}: {said}", markup=False, soft_wrap=True)
        text = page(stored)
        save_atomically(options.output / f"{NAME}.md", lambda part: part.write_text(text))
    except KanMdError as error:
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
