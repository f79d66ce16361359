"""Puts reports on disk and finds them again."""

from __future__ import annotations

import os
from pathlib import Path

from kan_md.benchmark.compare import Report
from kan_md.benchmark.figure import save_report_figure
from kan_md.benchmark.report import markdown, save_atomically
from kan_md.errors import user_error


def check_folder(folder: Path) -> None:
    """Make a folder for results before anything long is started.

    Raises:
        KanMdError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise user_error(
            "output folder must be writable",
            found=f"{folder} ({error.strerror})",
            allowed=None,
            remedy="set --output",
        ) from error
    if not os.access(folder, os.W_OK):
        raise user_error(
            "output folder must be writable", found=folder, allowed=None, remedy="set --output"
        )


def save_report(report: Report, folder: Path, *, name: str, figure: Path | None = None) -> None:
    """Write ``NAME.json``, ``NAME.md`` and the figure, ``NAME.png`` unless it is given."""
    check_folder(folder)
    figure = folder / f"{name}.png" if figure is None else figure
    save_atomically(folder / f"{name}.json", lambda part: part.write_text(report.to_json()))
    save_report_figure(report, figure)
    text = f"# {report.title}\n\n" + markdown(report, figure=os.path.relpath(figure, folder))
    save_atomically(folder / f"{name}.md", lambda part: part.write_text(text))
