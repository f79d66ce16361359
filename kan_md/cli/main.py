"""Entry point of the command line: one application, one place where errors become lines."""

from __future__ import annotations

import atexit
import gc
import os
import pkgutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import takewhile

import typer
from rich.console import Console

from kan_md import cli
from kan_md.allocator import tune_allocator
from kan_md.errors import KanMdError
from kan_md.files import cannot_write, is_full_disk
from kan_md.interrupt import interrupts_between_imports
from kan_md.versions import version_lines
from kan_md.waiting import let_threads_of_torch_wait

app = typer.Typer(
    name="kan-md",
    help="Train interatomic potentials with KAN readouts, compile them, run them in LAMMPS.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


(_UsageError,) = typer.BadParameter.__bases__
"""Of click, of which newer versions of typer carry a copy inside."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


STARTS_OTHERS = ("benchmark", "build", "demo", "inputs", "lmp")
"""Commands that load no torch; what they start finds its own settings."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo("\n".join(version_lines()))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False,
        "--version",
        is_eager=True,
        callback=_show_version,
        help="Show the versions of kan-md and of what it stands on.",
    ),
) -> None:
    if debug:
        os.environ["KAN_MD_DEBUG"] = "1"
    if context.invoked_subcommand not in (None, *STARTS_OTHERS):
        let_threads_of_torch_wait()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@cache  # a process may call main more than once
def _register_commands() -> None:
    """Let every sibling module add its commands: ``register(app)``."""
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name != "main":
            import_module(f"kan_md.cli.{module.name}").register(app)


def _several_after(arguments: list[str], option: str, belongs: Callable[[str], bool]) -> list[str]:
    """Join the words behind an option, which takes one: ``--elements Si O``, ``--seeds 1 2``."""
    if option not in arguments:
        return arguments
    start = arguments.index(option) + 1
    found = list(takewhile(belongs, arguments[start:]))
    joined = [",".join(found)] if found else []
    return [*arguments[:start], *joined, *arguments[start + len(found) :]]


def _is_element(word: str) -> bool:
    from ase.data import chemical_symbols

    return word in chemical_symbols[1:]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    A :class:`KanMdError`, a wrong command line and a full disk end the program with status 2 and
    one line on stderr; the traceback is shown only with ``--debug``.
    """
    start = time.monotonic()
    # At its end Python would look for garbage in all that torch has made: 1.2 s of every command.
    atexit.register(gc.freeze)
    tune_allocator()
    _register_commands()
    with interrupts_between_imports():
        try:
            # The object that commands find in their context is the time at which they began.
            words = list(sys.argv[1:] if arguments is None else arguments)
            words = _several_after(words, "--elements", _is_element)
            words = _several_after(words, "--seeds", str.isdigit)
            status = app(words, prog_name="kan-md", standalone_mode=False, obj=start) or 0
            sys.stdout.flush()  # here, where it can still be said that it fails
            sys.exit(status)
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        except _UsageError as error:
            path = error.ctx.command_path if error.ctx else "kan-md"
            _fail(f"{error.format_message().rstrip('.')}; see `{path} --help`")
        except KanMdError as error:
            if os.environ.get("KAN_MD_DEBUG"):
                raise
            _fail(str(error))
        except BrokenPipeError:  # `kan-md inspect ... | head`: nobody listens any more
            _drop_output()
            sys.exit(1)
        except OSError as error:
            if os.environ.get("KAN_MD_DEBUG") or not is_full_disk(error):
                raise
            _drop_output()
            _fail(str(cannot_write(error.filename or "the output or a temporary file", error)))


def _fail(message: str) -> None:
    with suppress(OSError):  # stderr may be on the same full disk
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"kan-md: error: {message}", markup=False
        )
    sys.exit(2)


def _drop_output() -> None:
    """Send what is left of stdout nowhere; Python would try, and complain, once more at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
