"""Tables and bars that more than one command shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

if TYPE_CHECKING:
    from ase import Atoms

    from kan_md.tasks.targets import Target


NOTHING = "–"
"""Where there is no number because there are no labels."""


def register(app: typer.Typer) -> None:
    """Nothing to add: this module serves the others."""


def track_frames(frames: Sequence[Atoms], *, description: str) -> Iterable[Atoms]:
    """Show a bar on stderr while structures are worked through; nothing where it is no terminal."""
    console = Console(stderr=True)
    return track(
        frames, description, console=console, transient=True, disable=not console.is_terminal
    )


def error_table(
    errors: Mapping[str, Mapping[str, float | None]], targets: Sequence[Target]
) -> Table:
    """Lay out MAE and RMSE of each quantity, one column per set.

    Args:
        errors: by set and name, e.g. ``errors["val"]["forces_mae"]``, in the targets' units; None
            or absent where a set has no labels.
        targets: what the names belong to.
    """
    from kan_md.train.metrics import milli, shown_unit

    table = Table()
    table.add_column("MAE / RMSE", no_wrap=True)
    for part in errors:
        table.add_column(part, justify="right", no_wrap=True)
    names = dict.fromkeys(name for values in errors.values() for name in values)
    # Components of tensors have no RMSE and a table of their own.
    for name in (key.removesuffix("_rmse") for key in names if key.endswith("_rmse")):
        unit, factor = milli(shown_unit(f"{name}_mae", targets))
        cells = [_mae_rmse(values, name, factor) for values in errors.values()]
        if any(cell != NOTHING for cell in cells):
            table.add_row(f"{name.replace('_', ' ')} ({unit})" if unit else name, *cells)
    return table


def group_table(
    errors: Mapping[str, Mapping[str, float]], counts: Mapping[str, int], targets: Sequence[Target]
) -> Table:
    """Lay out MAE and RMSE of each target, one row per ``config_type``.

    Args:
        errors: by group and name, see :func:`error_table`.
        counts: number of structures of each group.
        targets: what the names belong to.
    """
    from kan_md.train.metrics import milli, shown_unit

    table = Table(title="MAE / RMSE by config_type", title_justify="left")
    table.add_column("config_type")
    table.add_column("number", justify="right")
    factors = {}
    for target in targets:
        unit, factors[target.name] = milli(shown_unit(f"{target.name}_mae", targets))
        heading = f"{target.name}\n({unit})" if unit else target.name
        table.add_column(heading, justify="right", no_wrap=True)
    for group, values in errors.items():
        cells = [_mae_rmse(values, name, factor) for name, factor in factors.items()]
        table.add_row(group, str(counts[group]), *cells)
    return table


def _mae_rmse(values: Mapping[str, float | None], name: str, factor: float) -> str:
    """Both errors of one name, or that there are none."""
    if values.get(f"{name}_mae") is None:
        return NOTHING
    return " / ".join(_scaled(values.get(f"{name}_{kind}"), factor) for kind in ("mae", "rmse"))


def component_table(errors: Mapping[str, float], target: Target) -> Table:
    """Lay out the MAE of each component of a tensor, one column per species.

    Args:
        errors: of one set by name, e.g. ``errors["bec_O_xy_mae"]``.
        target: the tensor.
    """
    ending = f"_{target.components[0]}_mae"
    groups = [
        key.removesuffix(ending)
        for key in errors
        if key.startswith(f"{target.name}_") and key.endswith(ending)
    ]
    table = Table()
    table.add_column(f"MAE of {target.name}" + f" ({target.unit})" * bool(target.unit))
    for group in groups:
        table.add_column(group.removeprefix(target.name).lstrip("_") or "all", justify="right")
    for axes in target.components:
        table.add_row(axes, *(_digits(errors[f"{group}_{axes}_mae"]) for group in groups))
    return table


def survey_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Lay out :func:`kan_md.data.survey_table.group_rows`."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ("config_type", "number", "atoms", "energy\n(eV/atom)",
                "force RMS/max\n(eV/Å)", "pressure\n(GPa)", "closest\n(Å)")  # fmt: skip
    for heading in headings:
        justify = "left" if heading == "config_type" else "right"
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(
            str(row["config_type"]),
            str(row["structures"]),
            _range(row["atoms"]),
            _range(row["energy"]),
            _pair(row["force_rms"], row["force_max"]),
            _range(row["pressure"]),
            _number(row["closest"]),
        )
    return table


def _range(ends: Sequence[float] | None) -> str:
    if ends is None:
        return NOTHING
    low, high = map(_digits, ends)
    return low if low == high else f"{low}…{high}"


def _pair(first: float | None, second: float | None) -> str:
    return NOTHING if first is None else f"{_number(first)} / {_number(second)}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else _digits(value)


def _scaled(value: float | None, factor: float) -> str:
    return NOTHING if value is None else _digits(factor * value)


def _digits(value: float) -> str:
    """Three digits, without an exponent where the number is large."""
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.3g}"
