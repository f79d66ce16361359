"""Sums of univariate functions with small tables: eager training's way.

:mod:`kan_md.kan.bases` defines the bases by tensors [num_points, num_inputs, num_basis]. Writing
and reading those dominates the time of a layer with one output. Here the same functions are

    φ_i(s) = Σ_r Σ_p w[r, p, i] R_r(s) s^p    inside the grid,

with rows R_r that are cell masks (B-spline; s counts from the cell's copy of z = 0), Gaussians or
sines and cosines, at s = scale_i x_i. Each family is closed under d/ds, which only changes w
(:func:`derivative`). Values and their adjoint, the moments Σ_n g_ni R_r s^p for every w, are then
enough for derivatives of any order. What is not of this form is a second small table, rest
[2 or 3, num_inputs]: slopes below and above the grid for φ itself, constants for its derivative;
and the weight of the base function silu(z), or of its derivative.

The kernels run in plain torch on a few hundred points at a time, or as C++ operators after
:func:`use_operators`. Tests hold them to the definitions and to each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

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


_operators: Any = None


def use_operators(operators: Any) -> Any:
    """Choose what computes the kernels in this process.

    Args:
        operators: a namespace with ``function_sums``, ``function_values``, ``function_gradients``
            and ``function_moments``, such as ``torch.ops.kan_md`` once its library is loaded; None
            for plain torch.

    Returns:
        What did so before.
    """
    global _operators
    before, _operators = _operators, operators
    return before


def operators_for(x: torch.Tensor) -> Any:
    """The namespace chosen by :func:`use_operators` if it is for such a tensor, else None."""
    known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return _operators if known else None


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


Tables = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Family]
"""w, rest, scale, grid and family, as :func:`sum_of_functions` describes them."""


def sum_of_functions(
    x: torch.Tensor,
    scale: torch.Tensor,
    w: torch.Tensor,
    rest: torch.Tensor,
    grid: torch.Tensor,
    family: Family,
) -> torch.Tensor:
    """y_n = Σ_i φ_i(scale_i x_ni), differentiable any number of times in x, scale, w and rest.

    Args:
        x: [num_points, num_inputs].
        scale: [num_inputs], grid coordinates s relative to z = 0 per unit of x.
        w: [num_rows, num_powers, num_inputs].
        rest: [2 or 3, num_inputs].
        grid: [2, num_inputs], position of z = 0 on the grid, and z per step.
        family: what w and rest are the coefficients of.

    Returns:
        [num_points].
    """
    # Two nodes, so that forces, which need no gradient of the tables, do not compute one.
    value = _SumInPoints.apply(x, scale, w, rest, grid, family)
    return value + _SumInTables.apply(w, rest, (x, scale, grid), family)


def tables(
    a: torch.Tensor,
    base_weight: torch.Tensor | None,
    zero: torch.Tensor,
    slopes: torch.Tensor,
    pieces: list[list[float]],
    family: Family,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables w, rest of base_weight_i silu + Σ_m a_im B_m, by operations on small tensors.

    Args:
        a: [num_inputs, num_basis], coefficients of the functions of :mod:`kan_md.kan.bases`.
        base_weight: [num_inputs], or None without a base function.
        zero: [num_inputs].
        slopes: [2, num_inputs, num_basis], dB_m/du at the ends of the grid.
        pieces: of :func:`kan_md.kan.bases.cardinal_pieces`.
        family: of order 0.
    """
    rest = (slopes * a).sum(-1)
    if base_weight is not None:
        rest = torch.cat([rest, base_weight.unsqueeze(0)])
    if family.basis == "bspline":
        return _spline_table(a, zero, pieces, family.steps, family.shifted), rest
    if family.basis == "gaussian":
        number = torch.arange(a.shape[-1], dtype=a.dtype, device=a.device)
        a = a * torch.exp(-torch.square(zero.unsqueeze(-1) - number))
    return a.t().unsqueeze(1), rest


def derivative(
    w: torch.Tensor, rest: torch.Tensor, grid: torch.Tensor, family: Family
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Family]:
    """Tables of dφ/ds, with their grid and family."""
    zero, step = grid
    tails = rest[:2] if family.order == 0 else torch.zeros_like(rest[:2])
    rest = torch.cat([tails, step * rest[2:]])
    family = family._replace(order=family.order + 1, shifted=False)
    power = torch.arange(w.shape[1], dtype=w.dtype, device=w.device).view(1, -1, 1)
    if family.basis == "bspline":
        lowered = (power * w)[:, 1:]
        return (lowered if lowered.shape[1] else torch.zeros_like(w)), rest, grid, family
    if family.basis == "fourier":
        sine, cosine = w.chunk(2)
        omega = _frequencies(sine.shape[0], w).view(-1, 1, 1)
        return torch.cat([-omega * cosine, omega * sine]), rest, grid, family
    # E_m' = -2 (s + d_m) E_m
    distance = zero - torch.arange(w.shape[0], dtype=w.dtype, device=w.device).unsqueeze(-1)
    blank = torch.zeros_like(w[:, :1])
    raised = torch.cat([blank, w], dim=1)
    same = torch.cat([w * distance.unsqueeze(1), blank], dim=1)
    lowered = torch.cat([(power * w)[:, 1:], blank, blank], dim=1)
    return lowered - 2.0 * (raised + same), rest, grid, family


class _SumInPoints(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, w, rest, grid, family):
        ctx.save_for_backward(x, scale, w, rest, grid)
        ctx.family = family
        return _sums(x, scale, w, rest, grid, family)

    @staticmethod
    def backward(ctx, grad):
        x, scale, *of = ctx.saved_tensors
        gradients = _Gradients.apply(x, scale, grad.unsqueeze(-1), *derivative(*of, ctx.family))
        return *gradients, None, None, None, None  # tables: _SumInTables


class _SumInTables(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, rest, points, family):
        # inside a tuple x leaves no edge in the graph; asking for dy/dx then skips this node
        ctx.points, ctx.family = points, family
        ctx.sizes = (*w.shape[:2], rest.shape[0])
        return w.new_zeros(()).expand(points[0].shape[0])

    @staticmethod
    def backward(ctx, grad):
        x, scale, grid = ctx.points
        w, rest = _Moments.apply(x, scale, grad.unsqueeze(-1), grid, ctx.family, ctx.sizes)
        return w, rest, None, None


class _Gradients(torch.autograd.Function):
    """scale_i g_ni φ_i and Σ_n x_ni g_ni φ_i, with g [num_points, num_inputs] or [num_points, 1].

    The gradients of a sum whose functions have the slopes φ.
    """

    @staticmethod
    def forward(ctx, x, scale, g, w, rest, grid, family):
        ctx.save_for_backward(x, scale, g, w, rest, grid)
        ctx.family = family
        ctx.set_materialize_grads(False)
        return _gradients(x, scale, g, w, rest, grid, family)

    @staticmethod
    def backward(ctx, x_cotangent, scale_cotangent):
        x, scale, g, w, rest, grid = ctx.saved_tensors
        grads = None
        if x_cotangent is not None:  # functions scale φ
            scaled = (scale * w, scale * rest)
            grads = _pull_back(x_cotangent, x, scale, g, *scaled, grid, ctx)
            _, scale_grad, _, w_grad, rest_grad = grads
            if w_grad is not None:
                grads[1] = scale_grad + (w * w_grad).sum((0, 1)) + (rest * rest_grad).sum(0)
                grads[3:] = scale * w_grad, scale * rest_grad
        if scale_cotangent is not None:
            more = _pull_back(scale_cotangent * x, x, scale, g, w, rest, grid, ctx)
            more[0] = more[0] + scale_cotangent * _Values.apply(
                x, scale, g, w, rest, grid, ctx.family
            )
            grads = (
                more if grads is None else [_add(a, b) for a, b in zip(grads, more, strict=True)]
            )
        return *(grads or [None] * 5), None, None


class _Values(torch.autograd.Function):
    """g_ni φ_i(scale_i x_ni), with g [num_points, num_inputs] or [num_points, 1]."""

    @staticmethod
    def forward(ctx, x, scale, g, w, rest, grid, family):
        ctx.save_for_backward(x, scale, g, w, rest, grid)
        ctx.family = family
        return _values(x, scale, g, w, rest, grid, family)

    @staticmethod
    def backward(ctx, cotangent):
        return *_pull_back(cotangent, *ctx.saved_tensors, ctx), None, None


class _Moments(torch.autograd.Function):
    """Σ_n g_ni times what each number of w and rest multiplies in φ_i(scale_i x_ni)."""

    @staticmethod
    def forward(ctx, x, scale, g, grid, family, sizes):
        ctx.save_for_backward(x, scale, g, grid)
        ctx.family = family
        return _moments(x, scale, g, grid, family, *sizes)

    @staticmethod
    def backward(ctx, w, rest):
        x, scale, g, grid = ctx.saved_tensors
        x_grad, scale_grad = _Gradients.apply(x, scale, g, *derivative(w, rest, grid, ctx.family))
        g_grad = None
        if ctx.needs_input_grad[2]:
            one = g.new_ones(()).expand_as(g)
            g_grad = _Values.apply(x, scale, one, w, rest, grid, ctx.family).sum_to_size(g.shape)
        return x_grad, scale_grad, g_grad, None, None, None


def _pull_back(cotangent, x, scale, g, w, rest, grid, ctx) -> list[torch.Tensor | None]:
    """Gradients of Σ_ni cotangent_ni g_ni φ_i(scale_i x_ni) by x, scale, g, w and rest."""
    family = ctx.family
    weight = cotangent * g
    gradients = _Gradients.apply(x, scale, weight, *derivative(w, rest, grid, family))
    g_grad = None
    if ctx.needs_input_grad[2]:
        g_grad = _Values.apply(x, scale, cotangent, w, rest, grid, family).sum_to_size(g.shape)
    moments = (None, None)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
        sizes = (*w.shape[:2], rest.shape[0])
        moments = _Moments.apply(x, scale, weight, grid, family, sizes)
    return [*gradients, g_grad, *moments]


def _add(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    return None if a is None else a + b


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


def _silu_derivative(z: torch.Tensor, order: int) -> torch.Tensor:
    """silu^(k)(z) = z σ^(k) + k σ^(k-1), with σ^(k) a polynomial in σ: σ' = σ (1 - σ)."""
    sigma = torch.sigmoid(z)
    if order == 0:
        return z * sigma
    edge = sigma * (1.0 - sigma)
    if order == 1:
        return z * edge + sigma
    # σ^(k) = σ (1 - σ) Q_k(σ), Q_1 = 1, Q_(k+1)(y) = (1 - 2 y) Q_k(y) + y (1 - y) Q_k'(y)
    before, now = [0.0], [1.0]
    for _ in range(order - 1):
        before = now
        now = [
            (p + 1) * after - (p + 1) * lower
            for p, (after, lower) in enumerate(zip([*before, 0.0], [0.0, *before], strict=True))
        ]
    return edge * (z * _polynomial(now, sigma) + order * _polynomial(before, sigma))


def _polynomial(coefficients: list[float], y: torch.Tensor) -> torch.Tensor:
    value = torch.zeros_like(y)
    for coefficient in reversed(coefficients):
        value = value * y + coefficient
    return value


class _Rows:
    """Scratch space for one chunk: the rows R_r of a family, one after the other."""

    def __init__(
        self,
        x: torch.Tensor,
        scale: torch.Tensor,
        grid: torch.Tensor,
        family: Family,
        num_rows: int,
    ):
        zero, step = grid
        s = x * scale
        self.s, self.zero, self.step = s, zero, step
        self.family, self.num_rows = family, num_rows
        inside = torch.clamp(s, -zero, family.steps - zero)
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

    def rest(self, count: int) -> Iterator[torch.Tensor]:
        """What the first ``count`` rows of the table rest multiply."""
        if self.family.order == 0:
            yield self.beyond.clamp(max=0.0)
            yield self.beyond.clamp(min=0.0)
        else:
            yield self.beyond.clone().lt_(0.0)
            yield self.beyond.clone().gt_(0.0)
        if count > 2:
            yield _silu_derivative(self.step * self.s, self.family.order)

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


def _chunks(x: torch.Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS // max(1, x.shape[1])) if x.device.type == "cpu" else x.shape[0]
    return [slice(n, n + rows) for n in range(0, x.shape[0], max(1, rows))]


def _has_operators(x: torch.Tensor) -> bool:
    return _operators is not None and x.dtype in (torch.float32, torch.float64)


def _sums(x, scale, w, rest, grid, family):
    if _has_operators(x):
        return _operators.function_sums(x, scale, w, rest, grid, *family)
    result = x.new_empty(x.shape[0])
    for chunk in _chunks(x):
        result[chunk] = _evaluate(x[chunk], scale, w, rest, grid, family).sum(-1)
    return result


def _values(x, scale, g, w, rest, grid, family):
    if _has_operators(x):
        return _operators.function_values(x, scale, g, w, rest, grid, *family)
    values = torch.empty_like(x)
    for chunk in _chunks(x):
        values[chunk] = _evaluate(x[chunk], scale, w, rest, grid, family).mul_(g[chunk])
    return values


def _gradients(x, scale, g, w, rest, grid, family):
    if _has_operators(x):
        return _operators.function_gradients(x, scale, g, w, rest, grid, *family)
    x_grad, scale_grad = torch.empty_like(x), torch.zeros_like(scale)
    for chunk in _chunks(x):
        values = _evaluate(x[chunk], scale, w, rest, grid, family).mul_(g[chunk])
        scale_grad += (x[chunk] * values).sum(0)
        x_grad[chunk] = values.mul_(scale)
    return x_grad, scale_grad


def _evaluate(x, scale, w, rest, grid, family):
    """φ_i(scale_i x_ni) of one chunk, [num_points, num_inputs]."""
    rows = _Rows(x, scale, grid, family, w.shape[0])
    sums = [torch.zeros_like(rows.power) for _ in range(w.shape[1])]
    for row, coefficients in zip(rows, w.unbind(0), strict=True):
        for total, coefficient in zip(sums, coefficients.unbind(0), strict=True):
            total.addcmul_(row, coefficient)
    value = sums.pop()
    while sums:
        value = value.mul_(rows.power).add_(sums.pop())
    if rows.within is not None:
        value.mul_(rows.within)
    for function, coefficient in zip(rows.rest(rest.shape[0]), rest.unbind(0), strict=True):
        value.addcmul_(function, coefficient)
    return value


def _moments(x, scale, g, grid, family, num_rows, num_powers, num_rest):
    if _has_operators(x):
        sizes = (num_rows, num_powers, num_rest)
        return _operators.function_moments(x, scale, g, grid, *family, *sizes)
    w = x.new_zeros(num_rows, num_powers, x.shape[1])
    rest = x.new_zeros(num_rest, x.shape[1])
    for chunk in _chunks(x):
        rows = _Rows(x[chunk], scale, grid, family, num_rows)
        weight = g[chunk]
        for total, function in zip(rest.unbind(0), rows.rest(num_rest), strict=True):
            total += (function * weight).sum(0)
        if rows.within is not None:
            weight = weight * rows.within
        weights = [weight]
        for _ in range(num_powers - 1):
            weights.append(weights[-1] * rows.power)
        product = torch.empty_like(rows.power)
        for row, sums in zip(rows, w.unbind(0), strict=True):
            for total, factor in zip(sums.unbind(0), weights, strict=True):
                total += torch.mul(row, factor, out=product).sum(0)
    return w, rest
