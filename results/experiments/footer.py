"""What every page of trainings ends with: failures, sources, machines, command."""

from __future__ import annotations

from collections.abc import Iterable

from kan_md.benchmark.machine import machine_line
from kan_md.runs import Record
from kan_md.runs.record import count_commits


def footer(records: Iterable[Record], command: str) -> list[str]:
    """Lines about the runs of a page, those that failed first.

    Args:
        records: of all runs that the page knows.
        command: that makes the page.
    """
    records = list(records)
    done = [record for record in records if record.is_done]
    failed = [record for record in records if not record.is_done]
    return [
        *(f"Failed: {record.name}: {record.failure}\n" for record in failed),
        f"Sources: {count_commits(done)}.",
        "",
        *sorted({f"Machine: {machine_line(record.machine)}.\n" for record in done}),
        f"Command: `{command}`",
        "",
    ]
