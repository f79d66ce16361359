"""The bases of a univariate function φ(z) = Σ_m c_m B_m(z), each defined once.

Every function here takes *grid coordinates*: the grid has unit spacing and covers u in
[0, num_steps]; ``zero`` is the position of z = 0 on it and s = u - zero. With n = num_basis:

========  ==================================================  =========
basis     B_m(u)                                              num_steps
========  ==================================================  =========
bspline   cardinal B-spline of order k on integer knots, its  n - k
          support is [m - k, m + 1] (C. de Boor, *A Practical
          Guide to Splines*, 1978)
gaussian  exp(-(u - m)²): the spacing is the width, no ½      n - 1
          (as in FastKAN)
fourier   sin(2π(m + 1)s) for m < n/2, then                   1
          cos(2π(m - n/2 + 1)s): one period spans the grid
========  ==================================================  =========

The *zero-preserving* form subtracts B_m(zero) from each function such that the difference at s = 0
is 0 bit for bit, whatever the dtype, the device or the compiler. All functions are pure tensor
code: they script, export and trace, and can be differentiated any number of times.
"""

from __future__ import annotations

import math

import torch

from kan_md.errors import user_error

BASES = ("bspline", "gaussian", "fourier")
MAX_ORDER = 5


def num_steps(basis: str, *, num_basis: int, order: int) -> int:
    """Number of grid steps between the two ends of the grid.

    Args:
        basis: one of :data:`BASES`.
        num_basis: functions per input.
        order: degree of the B-spline's polynomial pieces; the other bases ignore it.

    Raises:
        KanMdError: unknown basis, or ``num_basis`` / ``order`` that the basis cannot have.
    """
    if basis not in BASES:
        raise user_error("basis", found=repr(basis), allowed=", ".join(BASES), remedy="set basis")
    if basis == "bspline" and not 1 <= order <= MAX_ORDER:
        raise user_error(
            "B-spline order", found=order, allowed=f"1 to {MAX_ORDER}", remedy="set order"
        )
    smallest = order + 1 if basis == "bspline" else 2
    if num_basis < smallest or (basis == "fourier" and num_basis % 2):
        allowed = f"{'even numbers' if basis == 'fourier' else 'integers'} from {smallest}"
        raise user_error(
            f"num_basis of the {basis} basis", found=num_basis, allowed=allowed,
            remedy="set num_basis",
        )  # fmt: skip
    return {"bspline": num_basis - order, "gaussian": num_basis - 1, "fourier": 1}[basis]


def cardinal_pieces(order: int) -> list[list[float]]:
    """Polynomial pieces of the k + 1 cardinal B-splines that are non-zero on one cell, times k!.

    They follow from N_k(v) = (v N_{k-1}(v) + (k + 1 - v) N_{k-1}(v - 1)) / k. Times k! they are
    integers, so their values at t = 0 and t = ½ are exact in every float type.

    Returns:
        [order + 1][order + 1]: entry [m][p] multiplies t^p, t in [0, 1) the position within the
        cell, in basis function number (cell + m).
    """
    pieces = [[1.0]]  # pieces[j]: N_k on [j, j + 1], as a polynomial in t = v - j
    for k in range(1, order + 1):
        raised = [[0.0] * (k + 1) for _ in range(k + 1)]
        for j, piece in enumerate(pieces):
            for p, c in enumerate(piece):
                raised[j][p] += j * c  # v N_{k-1}(v), v = t + j
                raised[j][p + 1] += c
                raised[j + 1][p] += (k - j) * c  # (k + 1 - v) N_{k-1}(v - 1), v = t + j + 1
                raised[j + 1][p + 1] -= c
        pieces = raised
    return pieces[::-1]


def bspline_local(
    u: torch.Tensor, pieces: list[list[float]], cells: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluate only the k + 1 B-splines that are non-zero at u.

    Args:
        u: [...], grid coordinates; outside [0, cells] the pieces of the end cells continue.
        pieces: of :func:`cardinal_pieces`.
        cells: number of grid cells.

    Returns:
        values [..., k + 1], times k!, and first [...] (int64): values[..., m] is basis function
        number first + m.
    """
    cell = torch.floor(u.detach()).clamp(0.0, float(cells - 1))
    t = u - cell
    order = len(pieces) - 1
    values: list[torch.Tensor] = []
    for piece in pieces:
        value = t * piece[order] + piece[order - 1]
        for p in range(order - 2, -1, -1):
            value = value * t + piece[p]
        values.append(value)
    return torch.stack(values, dim=-1), cell.to(torch.int64)


def bspline(
    u: torch.Tensor, zero: torch.Tensor, pieces: list[list[float]], cells: int, subtract: bool
) -> torch.Tensor:
    """All B-splines at u, times k!; minus their values at ``zero`` if ``subtract``.

    Args:
        u: [num_points, num_inputs], grid coordinates within [0, cells].
        zero: [num_inputs], a multiple of ½ if ``subtract`` (see :func:`cardinal_pieces`).
        pieces: of :func:`cardinal_pieces`.
        cells: number of grid cells.
        subtract: whether the zero-preserving form is wanted.

    Returns:
        [num_points, num_inputs, cells + k].
    """
    order = len(pieces) - 1
    number = torch.arange(order + 1, device=u.device)
    offset = torch.zeros(u.shape[-1], cells + order, dtype=u.dtype, device=u.device)
    if subtract:
        at_zero, first = bspline_local(zero, pieces, cells)
        offset = offset.scatter_add(-1, first.unsqueeze(-1) + number, -at_zero)
    values, first = bspline_local(u, pieces, cells)
    start = offset.expand(u.shape[0], u.shape[1], cells + order)
    return start.scatter_add(-1, first.unsqueeze(-1) + number, values)


def gaussian(s: torch.Tensor, zero: torch.Tensor, num_basis: int, subtract: bool) -> torch.Tensor:
    """All Gaussians exp(-(s + zero - m)²); minus their values at s = 0 if ``subtract``.

    Args:
        s: [num_points, num_inputs], grid coordinates relative to ``zero``.
        zero: [num_inputs].
        num_basis: number of functions.
        subtract: whether the zero-preserving form is wanted.

    Returns:
        [num_points, num_inputs, num_basis].
    """
    centre = torch.arange(num_basis, dtype=s.dtype, device=s.device)
    distance = zero.unsqueeze(-1) - centre  # [num_inputs, num_basis]
    value = torch.exp(-torch.square(s.unsqueeze(-1) + distance))
    if subtract:
        value = value - torch.exp(-torch.square(distance))
        # exp of a lone number may differ in its last bit from exp of the same number in an array
        value = value - value.detach() * (s == 0).unsqueeze(-1)
    return value


def fourier(s: torch.Tensor, num_basis: int, subtract: bool) -> torch.Tensor:
    """Sines, then cosines (minus one if ``subtract``), of 2πks for k = 1 .. num_basis/2.

    Args:
        s: [num_points, num_inputs], grid coordinates relative to z = 0; the period is 1.
        num_basis: number of functions, even.
        subtract: whether the zero-preserving form is wanted.

    Returns:
        [num_points, num_inputs, num_basis].
    """
    frequency = torch.arange(1, num_basis // 2 + 1, dtype=s.dtype, device=s.device)
    angle = s.unsqueeze(-1) * (2.0 * math.pi * frequency)
    cosine = torch.cos(angle)
    return torch.cat([torch.sin(angle), cosine - 1.0 if subtract else cosine], dim=-1)
