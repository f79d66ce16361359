"""Sums of univariate functions with small tables, in chunks that fit a cache: eager training's way.

:mod:`kan_md.kan.bases` defines the bases by tensors [num_points, num_inputs, num_basis]. Writing
and reading those dominates the time of a layer with one output. Here the same functions are

    φ_i(s) = Σ_r Σ_p w[r, p, i] R_r(s) s^p    inside the grid,

with rows R_r that are cell masks (B-spline; s counts from the cell's copy of z = 0), Gaussians or
sines and cosines. Each family is closed under d/ds, which only changes w (:func:`derivative`). Two
kernels are then enough for derivatives of any order: ``contract`` (φ from w) and its adjoint
``moments`` (Σ_n g_ni R_r s^p for every w). The linear tails are a second small table, tail[0] and
tail[1] per input: slopes below and above the grid for φ itself, constants for its derivative.

The kernels run in plain torch on a few hundred rows at a time. Tests hold them to the definitions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

_CHUNK_ELEMENTS = 32768
"""Elements of one scratch tensor; a handful of them fit the second-level cache."""


_MOST_GAUSSIANS = 9
"""Gaussians follow from each other by factors, which leave float32's range if there are more."""


def apply_to(x: torch.Tensor, basis: str, num_basis: int) -> bool:
    """Whether these kernels are the way to go: eager mode on a CPU, not while anything traces."""
    traced = (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._functorch.peek_interpreter_stack() is not None  # vmap, func.grad
    )
    return (
        not traced
        and x.device.type == "cpu"
        and (basis != "gaussian" or num_basis <= _MOST_GAUSSIANS)
    )


class Family(NamedTuple):
    """Which functions R_r s^p there are.

    Attributes:
        basis: name of the basis.
        steps: length of the grid.
        order: number of derivatives taken, 0 for φ itself.
        shifted: whether R_r is R_r - R_r(0), for φ of a zero-preserving layer.
    """

    basis: str
    steps: int
    order: int
    shifted: bool


def sum_of_functions(
    s: torch.Tensor, w: torch.Tensor, tail: torch.Tensor, zero: torch.Tensor, family: Family
) -> torch.Tensor:
    """y_n = Σ_i φ_i(s_ni), differentiable any number of times in s, w and tail.

    Args:
        s: [num_points, num_inputs], grid coordinates relative to z = 0.
        w: [num_rows, num_powers, num_inputs].
        tail: [2, num_inputs].
        zero: [num_inputs], position of z = 0 on the grid.
        family: what w and tail are the coefficients of.

    Returns:
        [num_points].
    """
    # Two nodes, so that forces, which need no gradient of the tables, do not compute one.
    value = _SumInPoints.apply(s, w, tail, zero, family)
    return value + _SumInTables.apply(w, tail, (s, zero), family)


def tables(
    a: torch.Tensor,
    zero: torch.Tensor,
    slopes: torch.Tensor,
    pieces: list[list[float]],
    family: Family,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of Σ_m a_im B_m, by operations on small tensors.

    Args:
        a: [num_inputs, num_basis], coefficients of the functions of :mod:`kan_md.kan.bases`.
        zero: [num_inputs].
        slopes: [2, num_inputs, num_basis], dB_m/du at the ends of the grid.
        pieces: of :func:`kan_md.kan.bases.cardinal_pieces`.
        family: of order 0.
    """
    tail = (slopes * a).sum(-1)
    if family.basis == "bspline":
        return _spline_table(a, zero, pieces, family.steps, family.shifted), tail
    if family.basis == "gaussian":
        number = torch.arange(a.shape[-1], dtype=a.dtype, device=a.device)
        a = a * torch.exp(-torch.square(zero.unsqueeze(-1) - number))
    return a.t().unsqueeze(1), tail


def derivative(
    w: torch.Tensor, tail: torch.Tensor, zero: torch.Tensor, family: Family
) -> tuple[torch.Tensor, torch.Tensor, Family]:
    """Tables of dφ/ds."""
    tail = tail if family.order == 0 else torch.zeros_like(tail)
    family = family._replace(order=family.order + 1, shifted=False)
    power = torch.arange(w.shape[1], dtype=w.dtype, device=w.device).view(1, -1, 1)
    if family.basis == "bspline":
        lowered = (power * w)[:, 1:]
        return (lowered if lowered.shape[1] else torch.zeros_like(w)), tail, family
    if family.basis == "fourier":
        sine, cosine = w.chunk(2)
        omega = _frequencies(sine.shape[0], w).view(-1, 1, 1)
        return torch.cat([-omega * cosine, omega * sine]), tail, family
    # E_m' = -2 (s + d_m) E_m
    distance = zero - torch.arange(w.shape[0], dtype=w.dtype, device=w.device).unsqueeze(-1)
    blank = torch.zeros_like(w[:, :1])
    raised = torch.cat([blank, w], dim=1)
    same = torch.cat([w * distance.unsqueeze(1), blank], dim=1)
    lowered = torch.cat([(power * w)[:, 1:], blank, blank], dim=1)
    return lowered - 2.0 * (raised + same), tail, family


class _SumInPoints(torch.autograd.Function):
    @staticmethod
    def forward(ctx, s, w, tail, zero, family):
        ctx.save_for_backward(s, w, tail, zero)
        ctx.family = family
        return _contract(s, w, tail, zero, family, summed=True)

    @staticmethod
    def backward(ctx, grad):
        s, w, tail, zero = ctx.saved_tensors
        w, tail, family = derivative(w, tail, zero, ctx.family)
        slope = _Contract.apply(s, w, tail, zero, family)
        return grad.unsqueeze(-1) * slope, None, None, None, None  # tables: _SumInTables


class _SumInTables(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, tail, points, family):
        # inside a tuple s leaves no edge in the graph; asking for dy/ds then skips this node
        ctx.s, ctx.zero = points
        ctx.family, ctx.num_rows, ctx.num_powers = family, w.shape[0], w.shape[1]
        return w.new_zeros(()).expand(ctx.s.shape[0])

    @staticmethod
    def backward(ctx, grad):
        g = grad.unsqueeze(-1).expand_as(ctx.s)
        w, tail = _Moments.apply(ctx.s, g, ctx.zero, ctx.family, ctx.num_rows, ctx.num_powers)
        return w, tail, None, None


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(ctx, s, w, tail, zero, family):
        ctx.save_for_backward(s, w, tail, zero)
        ctx.family = family
        return _contract(s, w, tail, zero, family, summed=False)

    @staticmethod
    def backward(ctx, grad):
        s, w, tail, zero = ctx.saved_tensors
        s_grad = w_grad = tail_grad = None
        if ctx.needs_input_grad[0]:
            s_grad = grad * _Contract.apply(s, *_swap(derivative(w, tail, zero, ctx.family), zero))
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            w_grad, tail_grad = _Moments.apply(s, grad, zero, ctx.family, w.shape[0], w.shape[1])
        return s_grad, w_grad, tail_grad, None, None


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, s, g, zero, family, num_rows, num_powers):
        ctx.save_for_backward(s, g, zero)
        ctx.family = family
        return _moments(s, g, zero, family, num_rows, num_powers)

    @staticmethod
    def backward(ctx, w, tail):
        s, g, zero = ctx.saved_tensors
        s_grad = g_grad = None
        if ctx.needs_input_grad[0]:
            s_grad = g * _Contract.apply(s, *_swap(derivative(w, tail, zero, ctx.family), zero))
        if ctx.needs_input_grad[1]:
            g_grad = _Contract.apply(s, w, tail, zero, ctx.family)
        return s_grad, g_grad, None, None, None, None


def _swap(
    tables_and_family: tuple[torch.Tensor, torch.Tensor, Family], zero: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Family]:
    w, tail, family = tables_and_family
    return w, tail, zero, family


def _frequencies(count: int, like: torch.Tensor) -> torch.Tensor:
    number = torch.arange(1, count + 1, dtype=like.dtype, device=like.device)
    return 2.0 * math.pi * number


def _spline_table(
    a: torch.Tensor, zero: torch.Tensor, pieces: list[list[float]], cells: int, shifted: bool
) -> torch.Tensor:
    """Polynomials per cell, w [cells, order + 1, num_inputs], in powers of u - cell - t0.

    t0 is the place of z = 0 in its own cell, so that the constant of that cell is φ(0): exactly 0
    once it is subtracted.
    """
    order = len(pieces) - 1
    home = torch.floor(zero).clamp(0.0, float(cells - 1))
    t0 = zero - home
    coefficients = torch.tensor(pieces, dtype=a.dtype, device=a.device)
    recentred = []  # power p of the piece as a polynomial in t - t0: Σ_q C(q, p) t0^(q-p) c_q
    for p in range(order + 1):
        column = torch.zeros_like(t0).unsqueeze(-1).expand(-1, order + 1)
        for q in range(order, p - 1, -1):
            column = column * t0.unsqueeze(-1) + math.comb(q, p) * coefficients[:, q]
        recentred.append(column)  # [num_inputs, order + 1]
    windows = a.unfold(-1, order + 1, 1)  # [num_inputs, cells, order + 1]
    w = torch.einsum("icj,pij->cpi", windows, torch.stack(recentred))
    if shifted:
        at_zero = w[:, 0].gather(0, home.to(torch.int64).unsqueeze(0))  # [1, num_inputs]
        w = torch.cat([(w[:, 0] - at_zero).unsqueeze(1), w[:, 1:]], dim=1)
    return w


class _Rows:
    """Scratch space for one chunk: the rows R_r of a family, one after the other."""

    def __init__(self, s: torch.Tensor, zero: torch.Tensor, family: Family, num_rows: int):
        self.family, self.zero, self.num_rows = family, zero, num_rows
        self.low, self.high = -zero, family.steps - zero
        inside = torch.clamp(s, self.low, self.high)
        self.beyond = s - inside
        self.inside = inside
        # as numbers: a mask of bytes would cost ten times as much to multiply by
        self.within = self.beyond.clone().eq_(0.0) if family.order else None
        if family.basis == "bspline":
            self.cell = torch.floor(inside + zero).clamp_(0.0, float(num_rows - 1))
            home = torch.floor(zero).clamp_(0.0, float(num_rows - 1))
            self.power = inside.sub_(self.cell).add_(home)
        else:
            self.power = inside

    def tails(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What tail[0] and tail[1] multiply."""
        if self.family.order == 0:
            return self.beyond.clamp(max=0.0), self.beyond.clamp(min=0.0)
        return self.beyond.clone().lt_(0.0), self.beyond.clone().gt_(0.0)

    def __iter__(self):
        basis, shifted = self.family.basis, self.family.shifted
        scratch = torch.empty_like(self.power)
        if basis == "bspline":
            for cell in range(self.num_rows):
                yield scratch.copy_(self.cell).eq_(cell)
            return
        if basis == "gaussian":
            # exp(-s² - 2 s d_m) = first · ratio^m
            value = torch.exp(-self.inside * (self.inside + 2.0 * self.zero))
            ratio = torch.exp(2.0 * self.inside)
            for number in range(self.num_rows):
                if number:
                    value.mul_(ratio)
                yield torch.sub(value, 1.0, out=scratch) if shifted else value
            return
        angle = (2.0 * math.pi) * self.inside
        sine, cosine = torch.sin(angle), torch.cos(angle)
        sines, cosines = [sine], [cosine]
        for _ in range(self.num_rows // 2 - 1):
            sines.append(sines[-1] * cosine + cosines[-1] * sine)
            cosines.append(cosines[-1] * cosine - sines[-2] * sine)
        yield from sines
        for value in cosines:
            yield value - 1.0 if shifted else value


def _chunks(s: torch.Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS // max(1, s.shape[1])) if s.device.type == "cpu" else s.shape[0]
    return [slice(n, n + rows) for n in range(0, s.shape[0], max(1, rows))]


def _contract(s, w, tail, zero, family, *, summed):
    result = s.new_empty(s.shape[:1] if summed else s.shape)
    w, tail, zero = w.contiguous(), tail.contiguous(), zero.contiguous()
    for chunk in _chunks(s):
        rows = _Rows(s[chunk], zero, family, w.shape[0])
        sums = [torch.zeros_like(rows.power) for _ in range(w.shape[1])]
        for row, coefficients in zip(rows, w.unbind(0), strict=True):
            for total, coefficient in zip(sums, coefficients.unbind(0), strict=True):
                total.addcmul_(row, coefficient)
        value = sums.pop()
        while sums:
            value = value.mul_(rows.power).add_(sums.pop())
        if rows.within is not None:
            value.mul_(rows.within)
        for outside, coefficient in zip(rows.tails(), tail.unbind(0), strict=True):
            value.addcmul_(outside, coefficient)
        result[chunk] = value.sum(-1) if summed else value
    return result


def _moments(s, g, zero, family, num_rows, num_powers):
    w = s.new_zeros(num_rows, num_powers, s.shape[1])
    tail = s.new_zeros(2, s.shape[1])
    for chunk in _chunks(s):
        rows = _Rows(s[chunk], zero, family, num_rows)
        weight = g[chunk]
        for side, outside in enumerate(rows.tails()):
            tail[side] += (outside * weight).sum(0)
        if rows.within is not None:
            weight = weight * rows.within
        weights = [weight]
        for _ in range(num_powers - 1):
            weights.append(weights[-1] * rows.power)
        product = torch.empty_like(rows.power)
        for row, sums in zip(rows, w.unbind(0), strict=True):
            for total, factor in zip(sums.unbind(0), weights, strict=True):
                total += torch.mul(row, factor, out=product).sum(0)
    return w, tail
