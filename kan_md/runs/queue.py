"""Trains the runs of a study that are missing, a few at a time, until the budget is used up."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from kan_md import children
from kan_md.errors import KanMdError
from kan_md.files import write_text
from kan_md.runs.identity import PARTS
from kan_md.runs.own_command import why_it_ended
from kan_md.runs.record import Record
from kan_md.runs.store import Run, Store
from kan_md.train.checkpoints import can_be_resumed
from kan_md.train.folder import LOG_FILE, read_results
from kan_md.train.folder_lock import Claim

_POLL = 0.5  # s
_INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit statuses of a training that was told to stop: it goes on at the next call."""
_CONFIG, _OUTPUT, _ERRORS = ".yaml", ".output.txt", ".errors.txt"


@dataclass
class _Training:
    """A run that is being trained.

    Attributes:
        run: which.
        process: its ``kan-md train``.
        folder: its ``--output``.
        begun: epochs that were done before.
        started: clock, s.
        files: what is closed, and the process ended, at its end.
        stopped: whether we ended it, in whatever way that took.
    """

    run: Run
    process: Popen
    folder: Path
    begun: int
    files: ExitStack
    started: float = field(default_factory=time.monotonic)
    stopped: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return _epochs_of(self.folder)

    @property
    def seconds(self) -> float:
        """Since this process began."""
        return time.monotonic() - self.started


def run_missing(
    runs: Sequence[Run],
    store: Store,
    *,
    jobs: int = 1,
    threads: int | None = None,
    budget: float | None = None,
    console: Console | None = None,
) -> list[Record]:
    """Train the runs without a record of results, in their order; each is kept once it is done.

    A run that fails gets a record with the reason, and the others go on; the next call tries it
    again. What is running when the budget is used up, or at an interruption, is saved and goes on
    at the next call. A run that another process is training is left to it.

    Args:
        runs: of the study.
        store: where they are kept.
        jobs: trainings at a time.
        threads: of each training; None leaves it to the environment.
        budget: seconds after which nothing goes on; None for no limit.
        console: gets a line per run and, on a terminal, a bar with the time left.

    Returns:
        Records of the runs that have one now, in the order of `runs`.

    Raises:
        KanMdError: a configuration is none; nothing has been trained then.
    """
    console = Console(stderr=True, highlight=False) if console is None else console
    deadline = None if budget is None else time.monotonic() + budget
    waiting = [run for run in runs if not _is_done(store.find(run))]
    with _Bar(waiting, total=len(runs), console=console) as bar, ExitStack() as running_ones:
        running: list[_Training] = []
        while waiting or running:
            late = deadline is not None and time.monotonic() >= deadline
            if late:
                for training in running:
                    training.stopped = True
                    children.end(training.process)
                waiting.clear()
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                training = _start(run, store, threads, running_ones, console)
                if training is None:
                    bar.forget(run)
                else:
                    running.append(training)
            time.sleep(_POLL if running else 0.0)
            for training in [t for t in running if t.process.poll() is not None]:
                running.remove(training)
                training.files.close()
                record = _keep(training, store, threads)
                bar.finished(training, record)
            bar.show(running)
        if deadline is not None and time.monotonic() >= deadline:
            console.print("the budget is used up; the same command goes on", style="yellow")
    found = [store.find(run) for run in runs]
    return [record for record in found if record is not None]


def _is_done(record: Record | None) -> bool:
    return record is not None and record.is_done


def _start(
    run: Run, store: Store, threads: int | None, stack: ExitStack, console: Console
) -> _Training | None:
    """Start a run, go on with it, or find that nothing is to be trained."""
    folder = store.folder(run)
    if _is_done(store.find(run)):  # under another name, or by another process, in the meantime
        return None
    if read_results(folder) is not None:  # this program ended between the run's end and its record
        record = store.keep(run, threads=threads)
        console.print(f"{run.name}: {_summary(record)}", markup=False, soft_wrap=True)
        return None
    try:
        with Claim(folder) as claim:
            claim.take()
    except KanMdError:
        console.print(f"{run.name}: another process is training it", markup=False, soft_wrap=True)
        return None
    failed = store.find(run)
    resume = can_be_resumed(folder) and failed is None
    config = _beside(folder, _CONFIG)
    _write_config(run, config)
    words = ["train", config, "--output", folder, "--resume" if resume else "--overwrite"]
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    files = stack.enter_context(ExitStack())
    begun = _epochs_of(folder) if resume else 0
    output = files.enter_context(_beside(folder, _OUTPUT).open("w"))
    errors = files.enter_context(_beside(folder, _ERRORS).open("w"))
    process = files.enter_context(
        children.child(
            [sys.executable, "-m", "kan_md", *words],
            stdout=output,
            stderr=errors,
            env=environment,
        )
    )
    return _Training(run, process, folder, begun, files)


def _beside(folder: Path, ending: str) -> Path:
    """A file of a run beside its folder, whose name may have points of its own: lr-0.003."""
    return folder.with_name(folder.name + ending)


def _write_config(run: Run, path: Path) -> None:
    """Write the configuration with paths that hold wherever it is read from."""
    content = run.config.model_dump(mode="json", exclude_unset=True)
    for part in PARTS:
        if content["data"].get(part) is not None:
            paths = getattr(run.config.data, part)
            content["data"][part] = [str(file.absolute()) for file in paths]
    if run.config.training.init_from is not None:
        content["training"]["init_from"] = str(run.config.training.init_from.absolute())
    write_text(path, yaml.safe_dump(content, sort_keys=False), make_folder=True)


def _keep(training: _Training, store: Store, threads: int | None) -> Record | None:
    """The record of a training that has ended; None where it was only interrupted."""
    status = training.process.returncode
    if status == 0 and read_results(training.folder) is not None:
        return store.keep(training.run, threads=threads)
    if status == 0:  # told to stop, and well: what is there goes on
        return None
    if training.stopped or status in _INTERRUPTED:
        return None
    said = _beside(training.folder, _ERRORS).read_text(errors="replace")
    return store.keep_failure(training.run, why_it_ended(said, status), threads=threads)


def _epochs_of(folder: Path) -> int:
    """Epochs in log.csv, which is written whole after each."""
    try:
        return max(0, (folder / LOG_FILE).read_text().count("\n") - 1)
    except FileNotFoundError:
        return 0


def _summary(record: Record) -> str:
    if not record.is_done:
        return f"failed: {record.failure}"
    errors = record.results["errors"].get("test") or record.results["errors"]["val"]
    shown = [
        f"{name.removesuffix('_mae')} {1e3 * value:.4g}"
        for name, value in errors.items()
        if name.endswith("_mae") and "per_structure" not in name and value is not None
    ]
    seconds = record.results["seconds"]
    return f"{', '.join(shown)} (MAE, thousandths of eV, Å), {seconds:.0f} s"


class _Bar:
    """Runs times epochs on the screen, and the time that they still take.

    Args:
        waiting: runs to train.
        total: number of runs of the study.
        console: where to.
    """

    def __init__(self, waiting: Sequence[Run], *, total: int, console: Console) -> None:
        self._left = {run.id: _expected_epochs(run) for run in waiting}
        self._done = total - len(waiting)
        self._total = total
        self._jobs = 1
        self._trained = 0
        self._seconds = 0.0
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bars.add_task("", total=sum(self._left.values()) or 1, left="")

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def forget(self, run: Run) -> None:
        """Leave out a run that is not to be trained here."""
        self._left.pop(run.id, None)

    def finished(self, training: _Training, record: Record | None) -> None:
        """Say how a run ended, and count it."""
        self._trained += max(0, training.epochs - training.begun)
        self._seconds += training.seconds
        self._left.pop(training.run.id, None)
        self._done += record is not None
        text = "interrupted, goes on at the next call" if record is None else _summary(record)
        self._console.print(f"{training.run.name}: {text}", markup=False, soft_wrap=True)

    def show(self, running: Sequence[_Training]) -> None:
        """Bring the bar up to date."""
        if not self._console.is_terminal:
            return
        now = sum(min(t.epochs, self._left[t.run.id]) for t in running)
        trained = self._trained + sum(max(0, t.epochs - t.begun) for t in running)
        seconds = self._seconds + sum(t.seconds for t in running)
        left = sum(self._left.values()) - now
        self._jobs = max(self._jobs, len(running))
        names = ", ".join(f"{t.run.name} {t.epochs}/{_expected_epochs(t.run)}" for t in running)
        per_epoch = seconds / trained / self._jobs if trained else None
        self._bars.update(
            self._task,
            description=f"{self._done} of {self._total} runs; {names}",
            completed=self._bars.tasks[self._task].total - left,
            left="" if per_epoch is None else f"{left:,} epochs, {_duration(left * per_epoch)}",
        )


def _expected_epochs(run: Run) -> int:
    """Epochs of a run; one whose end is a time counts as one."""
    return run.config.training.epochs or 1


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min left" if minutes else "under a minute left"
