"""Progress bars on stderr, one per model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kan_md.benchmark.compare import Conditions
from kan_md.benchmark.models import Entry
from kan_md.benchmark.runner import Progress


@contextmanager
def show_progress(entries: Sequence[Entry], conditions: Conditions) -> Iterator[Progress]:
    """Show a bar per model while the block runs.

    Yields:
        A function to call with (label, steps done in this run, steps of this run).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bars:
        total = conditions.steps * conditions.repeats
        tasks = {entry.label: bars.add_task(entry.label, total=total) for entry in entries}
        before = dict.fromkeys(tasks, 0)

        def advance(label: str, done: int, steps: int) -> None:
            bars.update(
                tasks[label], completed=before[label] + done, total=steps * conditions.repeats
            )
            if done == steps:
                before[label] += steps

        yield advance
