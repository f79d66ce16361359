"""Tables that more than one command prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table

if TYPE_CHECKING:
    from kan_md.data.targets import Target


def register(app: typer.Typer) -> None:
    """Nothing to add: this module serves the others."""


def error_table(errors: Mapping[str, Mapping[str, float]], targets: Sequence[Target]) -> Table:
    """Lay out MAE and RMSE of each quantity, one pair of columns per set.

    Args:
        errors: by set and name, e.g. ``errors["val"]["forces_mae"]``, in the targets' units.
        targets: what the names belong to.
    """
    from kan_md.train.metrics import shown_unit

    table = Table(title=None)
    table.add_column("error")
    for part in errors:
        table.add_column(f"{part} MAE", justify="right")
        table.add_column(f"{part} RMSE", justify="right")
    first = next(iter(errors.values()))
    for name in (key.removesuffix("_mae") for key in first if key.endswith("_mae")):
        unit, factor = milli(shown_unit(f"{name}_mae", targets))
        cells = [
            f"{factor * values[f'{name}_{kind}']:.3g}"
            for values in errors.values()
            for kind in ("mae", "rmse")
        ]
        table.add_row(f"{name.replace('_', ' ')} ({unit})", *cells)
    return table


def milli(unit: str) -> tuple[str, float]:
    """Write errors in eV as meV; other units stay."""
    return (f"m{unit}", 1000.0) if unit.startswith("eV") else (unit, 1.0)
