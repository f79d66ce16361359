"""The road from nothing to a table, as the commands that a user would type."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml
from rich.console import Console

from kan_md import children
from kan_md.benchmark.compare import Conditions
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError, user_error
from kan_md.files import write_text

DATA = "ag.xyz"
REPORT = "timing"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Settings of the demonstration; :meth:`run` does it.

    Attributes:
        backbone: architecture, or ``local-mace`` for MACE of one layer; its example is
            ``kan_md/config/examples/demo_BACKBONE.yaml``.
        output: folder of all files.
        control: readout that the KAN is compared with.
        train_time: wall-clock budget of each training, e.g. ``70s``.
        steps: LAMMPS steps of each model.
        console: where to tell what happens.
    """

    backbone: str
    output: Path
    control: str
    train_time: str
    steps: int
    console: Console

    def run(self) -> None:
        """Do what is not done yet, then run LAMMPS and show the table.

        Raises:
            KanMdError: a setting is out of range, or a step failed; its own message is above.
        """
        start = time.monotonic()
        self._check()
        check_folder(self.output)
        self._step(self.output / DATA, "data", "ag-vacancy", self.output / DATA)
        deployed = []
        for kind in ("kan", self.control):
            config = self._write_config(kind)
            folder = self.output / kind
            model, file = folder / "model.pth", self.output / f"{kind}.deployed.pth"
            begun = (folder / "checkpoints" / "last.ckpt").exists()
            resume = ["--resume"] if begun else ["--overwrite"]
            self._step(
                *(model, "train", config, "--output", folder, *resume),
                *("--set", f"training.max_time={self.train_time}"),
            )
            self._step(file, "deploy", model, "--output", file, "--overwrite")
            deployed.append(file)
        report = self.output / REPORT
        self._call(
            *("benchmark", *deployed, "--vs", self.control, "--steps", self.steps),
            *("--output", report),
        )
        self._tell_where(time.monotonic() - start)

    def _check(self) -> None:
        """Refuse what the last command would refuse after minutes of training."""
        from kan_md.config.duration import parse_duration  # its package loads torch

        Conditions(steps=self.steps, blocks=1)
        try:
            seconds = parse_duration(self.train_time)
        except ValueError as error:
            raise user_error(
                str(error), found=repr(self.train_time), allowed=None, remedy="set --train-time"
            ) from error
        if not seconds > 0:
            raise user_error(
                "training time must be > 0 s",
                found=self.train_time,
                allowed=None,
                remedy="set --train-time",
            )

    def _step(self, result: Path, *arguments: object) -> None:
        """Run a command unless its result is there."""
        if result.exists():
            self.console.print(f"{result}: already there", style="dim")
            return
        self._call(*arguments)

    def _call(self, *arguments: object) -> None:
        words = list(map(str, arguments))
        self.console.print(f"$ kan-md {shlex.join(words)}", style="bold", soft_wrap=True)
        status = children.run([sys.executable, "-m", "kan_md", *words]).returncode
        if status != 0:
            raise KanMdError(
                f"the demo stopped at `kan-md {words[0]}`, got status {status}; "
                "give the same command to go on from there"
            )

    def _write_config(self, kind: str) -> Path:
        """Write the example's configuration with the wanted readout beside the data."""
        source = files("kan_md.config") / "examples" / f"demo_{self.backbone}.yaml"
        if not source.is_file():
            raise user_error(
                "no demo for this backbone",
                found=self.backbone,
                allowed="allegro, nequip, mace, local-mace",
                remedy="choose another --backbone",
            )
        content = yaml.safe_load(source.read_text())
        content["data"]["train"] = DATA
        if kind != "kan":
            content["readout"] = {"kind": kind}
        path = self.output / f"{kind}.yaml"
        if not path.exists():
            write_text(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
        return path

    def _tell_where(self, seconds: float) -> None:
        places = {
            "data": self.output / DATA,
            "configuration": self.output / "kan.yaml",
            "control's": self.output / f"{self.control}.yaml",
            "trained": self.output / "kan" / "model.pth",
            "deployed": self.output / "kan.deployed.pth",
            "table": self.output / REPORT / "report.md",
            "figure": self.output / REPORT / "report.png",
        }
        (script,) = (self.output / REPORT / "runs").glob("0-*/in.lammps")
        self.console.print(f"\nDone in {seconds:.0f} s. Files:", style="bold")
        for name, path in places.items():
            self.console.print(f"  {name:<14} {path}", soft_wrap=True)
        self.console.print(
            f"\nThe LAMMPS input, {script} (run it with kan-md lmp -in):", soft_wrap=True
        )
        self.console.print(script.read_text().rstrip(), markup=False, soft_wrap=True)
