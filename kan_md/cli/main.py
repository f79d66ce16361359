"""Entry point of the command line: one application, one place where errors become lines."""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module

import typer
from rich.console import Console

from kan_md import cli
from kan_md.allocator import tune_allocator
from kan_md.errors import KanMdError

app = typer.Typer(
    name="kan-md",
    help="Train interatomic potentials with KAN readouts, compile them, run them in LAMMPS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    if debug:
        os.environ["KAN_MD_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: every sibling module registers its command with ``register(app)``.

    A :class:`KanMdError` ends the program with status 2 and one line on stderr; the traceback is
    shown only with ``--debug``.
    """
    tune_allocator()
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name != "main":
            import_module(f"kan_md.cli.{module.name}").register(app)
    try:
        app(arguments, prog_name="kan-md")
    except KanMdError as error:
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"kan-md: error: {error}", markup=False
        )
        sys.exit(2)
