"""Polynomials of degree five on pieces: the one kind of table that a function of one variable has.

A piece holds the powers of the place u in [0, 1] inside it, and ``quintic`` of ``piecewise.h`` is
what evaluates it. How pieces follow each other is what differs, and each has its reason:

- :mod:`kan_md.ops.interval_tables`: cut anywhere, for functions of a distance whose derivatives
  jump. An operator of a whole model finds the piece of a distance once for all its functions.
- :mod:`kan_md.ops.tables`: all of one width, kept as value, slope and curvature at their ends,
  which is half of what the memory of ``kan_md::convolution`` would move for powers.
- ``kan_md_deploy.passes.tables.kan_fit``: all of one width per input of a KAN, counted from x = 0
  such that φ(0) = 0 survives bit for bit, with lines as the first and the last one. Where SiLU
  bends far beyond a narrow grid, wider ones come before these lines.

All of it is code for TorchScript, too: files of many elements make tables when they are loaded.

Eager training (:mod:`kan_md.ops.function_sums`) keeps the basis functions, whose coefficients it
differentiates by; ``kan_rows.h`` does where a matrix product over them is faster than any table.
"""

from __future__ import annotations

import torch


def hermite_powers(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Quintics with given ends as powers of the place between them, 0 to 1.

    Args:
        left: [..., 3, n] of f, h f', h² f'' where the place is 0.
        right: the same where it is 1.

    Returns:
        [..., 6, n].
    """
    ends = torch.cat([left, right], dim=-2)
    # Of f, h f', h² f'' at both ends, in powers of the place between them.
    weights = torch.tensor(
        [
            [1.0, 0.0, 0.0, -10.0, 15.0, -6.0],
            [0.0, 1.0, 0.0, -6.0, 8.0, -3.0],
            [0.0, 0.0, 0.5, -1.5, 1.5, -0.5],
            [0.0, 0.0, 0.0, 10.0, -15.0, 6.0],
            [0.0, 0.0, 0.0, -4.0, 7.0, -3.0],
            [0.0, 0.0, 0.0, 0.5, -1.0, 0.5],
        ],
        dtype=ends.dtype,
    )
    return torch.matmul(weights.t(), ends)


def extrapolate(
    value: torch.Tensor, slope: torch.Tensor, curvature: torch.Tensor, step: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """F and f' a small step away, by Taylor's formula from f, f', f''."""
    return value + step * (slope + step / 2 * curvature), slope + step * curvature


def monomials(place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the powers of a piece multiply in its value, u^p, and in its slope, p u^(p-1).

    Args:
        place: [...], u.

    Returns:
        [..., 6] each.
    """
    order = torch.arange(6, dtype=place.dtype)
    u = place.unsqueeze(-1)
    return u**order, order * u ** (order - 1.0).clamp_min(0.0)


def values_and_slopes(
    powers: torch.Tensor, place: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every piece at the same places inside it, slopes per piece.

    Args:
        powers: [num_pieces, 6, num_functions].
        place: [num_places].

    Returns:
        [num_pieces, num_places, num_functions] each.
    """
    at, along = monomials(place)
    return torch.matmul(at, powers), torch.matmul(along, powers)
