"""Runs a trainer as its users have it and says how long its epochs took.

``python run_trainer.py PROGRAM CONFIGURATION FOLDER`` trains in FOLDER and prints JSON: seconds of
each epoch, validation and checkpoints included, CPU seconds and peak memory of the whole program.
PROGRAM is kan-md, nequip-train or mace_run_train; CONFIGURATION holds its settings as JSON, which
are lines of the YAML file or, for mace_run_train, options of the command line. Only how the epochs
are clocked is not the program's own: kan-md's from its log.csv, mace_run_train's from the times in
its log, nequip-train's by a Lightning callback, named in its configuration.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from lightning.pytorch import Callback

from kan_md.benchmark.log import last_line
from kan_md.errors import KanMdError

CLOCK = "epochs.json"
_EPOCH = re.compile(r"^(\S+ \S+) INFO: (?:Initial|Epoch \d+): ", re.MULTILINE)
_MACE = """
from kan_md.backbones.mace import import_mace
import_mace()
from mace.cli import run_train
run_train.main()
"""
"""mace-torch as kan-md imports it, beside a newer e3nn than it asks for."""


class EpochClock(Callback):
    """Writes when each epoch of a Lightning trainer begins, and when the training ends."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        """Note the time."""
        self._times.append(time.monotonic())

    def on_train_end(self, *_: object) -> None:
        """Note the time, and write all."""
        self._times.append(time.monotonic())
        Path(CLOCK).write_text(json.dumps(self._times))


def kan_md(settings: dict, folder: Path) -> tuple[list[str], dict]:
    """Command of ``kan-md train``."""
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    options = ["config.yaml", "--output", "run", "--overwrite"]
    return [sys.executable, "-m", "kan_md", "train", *options], {}


def nequip_train(settings: dict, folder: Path) -> tuple[list[str], dict]:
    """Command of ``nequip-train``, with the clock among its callbacks."""
    trainer = settings["trainer"]
    clock = {"_target_": f"{Path(__file__).stem}.{EpochClock.__name__}"}
    trainer = trainer | {"callbacks": [*trainer.get("callbacks", []), clock]}
    (folder / "config.yaml").write_text(json.dumps(settings | {"trainer": trainer}))
    options = ["-cp", str(folder), "-cn", "config", "hydra.run.dir=."]
    return [str(Path(sys.executable).with_name("nequip-train")), *options], {
        "PYTHONPATH": str(Path(__file__).parent)
    }


def mace_run_train(settings: dict, folder: Path) -> tuple[list[str], dict]:
    """Command of ``mace_run_train``."""
    options = [f"--{key}" if value == "" else f"--{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-W", "ignore", "-c", _MACE, "--work_dir", ".", *options], {}


def kan_md_epochs(folder: Path, _: str) -> list[float]:
    """Seconds of each epoch but the first, which begins where no row says."""
    with (folder / "run" / "log.csv").open(newline="") as file:
        times = [float(row["seconds"]) for row in csv.DictReader(file)]
    return [later - earlier for earlier, later in pairwise(times)]


def nequip_train_epochs(folder: Path, _: str) -> list[float]:
    """Seconds of each epoch but the first, which loads and compiles."""
    times = json.loads((folder / CLOCK).read_text())
    return [later - earlier for earlier, later in pairwise(times[1:])]


def mace_run_train_epochs(_: Path, output: str) -> list[float]:
    """Seconds of each epoch but the first; mace_run_train says when it has validated."""
    times = [datetime.fromisoformat(found).timestamp() for found in _EPOCH.findall(output)]
    return [later - earlier for earlier, later in pairwise(times[1:])]


PROGRAMS = {
    "kan-md": (kan_md, kan_md_epochs),
    "nequip-train": (nequip_train, nequip_train_epochs),
    "mace_run_train": (mace_run_train, mace_run_train_epochs),
}


def run(program: str, settings: dict, folder: Path) -> dict:
    """Train and measure.

    Raises:
        KanMdError: the program failed; the message carries the last line of its output.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    make_command, epochs = PROGRAMS[program]
    command, environment = make_command(settings, folder)
    log = folder / "output.txt"
    with log.open("w") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text()
    if child.returncode != 0:
        raise KanMdError(f"{program} failed: {last_line(text)}")
    return {
        "epochs": epochs(folder, text),
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Command line of the module."""
    program, settings, folder = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    print(json.dumps(run(program, settings, Path(folder))))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
