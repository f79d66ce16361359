"""``kan-md lmp``: run LAMMPS with the plug-in."""

from __future__ import annotations

from typing import Annotated

import typer

from kan_md.errors import KanMdError, user_error


def register(app: typer.Typer) -> None:
    """Add ``lmp`` to the command line."""
    app.command("lmp", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
        lmp
    )


def lmp(
    context: typer.Context,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", min=1, help="MPI ranks; also -n N or -np N, anywhere in ARGS."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="OpenMP threads per rank.")
    ] = None,
) -> None:
    """Run LAMMPS with pair_style allegro, nequip and mace; all other ARGS go to lmp.

    Example: kan-md lmp -n 2 -in in.lammps
    """
    from kan_md.lammps.ranks import is_first_rank
    from kan_md.lammps.run import become_lammps

    arguments, given = take_ranks(context.args)
    if ranks and given and ranks != given:
        raise user_error(
            "the number of MPI ranks must be one",
            found=f"--ranks {ranks} and -n {given}",
            allowed=None,
            remedy="leave one of them out",
        )
    try:
        become_lammps(arguments, ranks=ranks or given, threads=threads)
    except KanMdError as error:
        if is_first_rank():
            raise
        raise typer.Exit(2) from error  # one line for all ranks


def take_ranks(arguments: list[str]) -> tuple[list[str], int | None]:
    """Take ``-n N`` and ``-np N`` out of LAMMPS' arguments, none of which is called so.

    Not options of typer's: it would take the n out of LAMMPS' own -in and -nocite.

    Raises:
        KanMdError: no number follows, or two numbers are given.
    """
    rest: list[str] = []
    given: set[int] = set()
    words = iter(arguments)
    for word in words:
        if word not in ("-n", "-np"):
            rest.append(word)
            continue
        number = next(words, "nothing")
        if not (number.isdecimal() and int(number) > 0):
            raise user_error(
                word, found=number, allowed="1 or more MPI ranks", remedy=f"set {word}"
            )
        given.add(int(number))
    if len(given) > 1:
        raise user_error(
            "the number of MPI ranks must be one",
            found=f"-n {' and -n '.join(map(str, sorted(given)))}",
            allowed=None,
            remedy="leave one of them out",
        )
    return rest, next(iter(given), None)
