"""``kan-md lmp``: run LAMMPS with the plug-in."""

from __future__ import annotations

from typing import Annotated

import typer

from kan_md.errors import user_error


def register(app: typer.Typer) -> None:
    """Add ``lmp`` to the command line."""
    app.command("lmp", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
        lmp
    )


def lmp(
    context: typer.Context,
    ranks: Annotated[
        int, typer.Option("--ranks", min=1, help="MPI ranks; also -n N as the first of ARGS.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="OpenMP threads per rank.")
    ] = None,
) -> None:
    """Run LAMMPS with pair_style allegro, nequip and mace; all other ARGS go to lmp.

    Example: kan-md lmp -n 2 -in in.lammps
    """
    from kan_md.lammps.run import run_lammps

    arguments = list(context.args)
    # Not an option of typer's: it would take the n out of LAMMPS' own -in and -nocite.
    if len(arguments) > 1 and arguments[0] == "-n" and arguments[1].isdigit():
        ranks, arguments = int(arguments[1]), arguments[2:]
        if ranks < 1:
            raise user_error("-n", found=ranks, allowed="1 or more MPI ranks", remedy="set -n")
    result = run_lammps(arguments, ranks=ranks, threads=threads, capture=False)
    raise typer.Exit(result.returncode)
