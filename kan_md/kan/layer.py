"""One Kolmogorov-Arnold layer: y_o = Σ_i φ_oi(x_i), every φ a learned univariate function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from kan_md.errors import user_error
from kan_md.kan import bases
from kan_md.ops import function_sums

BaseFunction = Literal["silu", "none"]
BASE_FUNCTIONS = ("silu", "none")


class KANLayer(torch.nn.Module):
    """y_o = Σ_i φ_oi(g_i x_i), φ_oi(z) = w_oi silu(z) + Σ_m c_oim (B_m(z) - B_m(0)).

    B_m is one of the bases of :mod:`kan_md.kan.bases` on a uniform grid per input, g a learned gain
    per input. φ(0) = 0 holds bit for bit when ``zero_preserving``. Outside its grid the expansion
    goes on along its tangent, so that φ is continuously differentiable everywhere.

    Coefficients and base weights start as normal random numbers such that independent inputs of
    zero mean and unit variance give outputs of unit variance (half of it from the base function).

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        basis: ``bspline``, ``gaussian`` or ``fourier``.
        num_basis: functions B_m per input (fourier: sines and cosines together).
        order: degree of the B-spline's pieces, 1 to 5.
        grid_range: ends of the grid, in units of g x. Contains 0 if ``zero_preserving``; the range
            of a zero-preserving B-spline moves by up to a quarter of a step so that 0 becomes a
            knot or the middle of a cell.
        base: the function beside the expansion.
        input_gain: ``learned`` or ``none`` (g = 1).
        zero_preserving: subtract B_m(0).
        tails: what the expansion does outside the grid; ``linear`` is the only way so far.
        generator: random numbers of the start values. The global generator is never advanced:
            without a generator the numbers follow from ``torch.initial_seed()`` alone, so that two
            such layers of one shape start equal.

    Raises:
        KanMdError: an argument outside its range.

    Attributes:
        coefficients: [out_features, in_features, num_basis].
        base_weight: [out_features, in_features], or None.
        input_gain: [in_features], or None.
        grid_step: [in_features], grid spacing in units of g x.
        grid_zero: [in_features], position of x = 0 in steps from the lower end of the grid.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: str = "gaussian",
        num_basis: int = 8,
        order: int = 3,
        grid_range: Sequence[float] = (-2.0, 2.0),
        base: BaseFunction = "silu",
        input_gain: Literal["learned", "none"] = "learned",
        zero_preserving: bool = True,
        tails: Literal["linear"] = "linear",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check("in_features", in_features, in_features >= 1, "integers from 1")
        _check("out_features", out_features, out_features >= 1, "integers from 1")
        _check("base", base, base in BASE_FUNCTIONS, ", ".join(BASE_FUNCTIONS))
        _check("input_gain", input_gain, input_gain in ("learned", "none"), "learned, none")
        _check("tails", tails, tails == "linear", "linear")
        self.in_features = in_features
        self.out_features = out_features
        self.basis = basis
        self.num_basis = num_basis
        self.order = order
        self.base = base
        self.zero_preserving = zero_preserving
        self.steps = bases.num_steps(basis, num_basis=num_basis, order=order)
        self.pieces = bases.cardinal_pieces(order if basis == "bspline" else 1)
        self.norm = math.factorial(order) if basis == "bspline" else 1  # of bases.bspline

        self.coefficients = torch.nn.Parameter(torch.empty(out_features, in_features, num_basis))
        if base == "silu":
            self.base_weight = torch.nn.Parameter(torch.empty(out_features, in_features))
        else:
            self.register_parameter("base_weight", None)
        if input_gain == "learned":
            self.input_gain = torch.nn.Parameter(torch.ones(in_features))
        else:
            self.register_parameter("input_gain", None)
        self.register_buffer("grid_step", torch.empty(in_features))
        self.register_buffer("grid_zero", torch.empty(in_features))
        lower, upper = (torch.full((in_features,), float(end)) for end in grid_range)
        self.set_grid(lower, upper)
        self.reset_parameters(generator)

    def set_grid(self, lower: torch.Tensor, upper: torch.Tensor) -> None:
        """Place the grid of every input; the coefficients stay as they are.

        Args:
            lower: [in_features], lower ends in units of g x.
            upper: [in_features], upper ends.

        Raises:
            KanMdError: an end that is not finite, an empty range, or one that leaves out 0.
        """
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True):
            ordered = math.isfinite(low) and math.isfinite(high) and low < high
            allowed = "(lower, upper) with lower < upper"
            if self.zero_preserving:
                ordered = ordered and low <= 0.0 <= high
                allowed = "(lower, upper) with lower <= 0 <= upper and lower < upper"
            _check("grid_range", (low, high), ordered, allowed)
        step, zero = self.snap(lower, upper)
        self.grid_step.copy_(step)
        self.grid_zero.copy_(zero)

    def snap(self, lower: torch.Tensor, upper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Step and position of zero, float64, of the grids that :meth:`set_grid` would place.

        Zero sits on a half step, which moves a grid by up to a quarter of one: a deployed file's
        pieces then begin at zero and at both ends of the grid, where the curvature jumps.
        """
        step = (upper - lower).double() / self.steps
        zero = -lower.double() / step
        if self.zero_preserving:
            zero = torch.round(2.0 * zero) / 2.0
        return step, zero

    def grid_ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper ends of the grids, [in_features] each, in units of g x."""
        lower = -self.grid_zero * self.grid_step
        return lower, lower + self.steps * self.grid_step

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the start values anew (see the class)."""
        if generator is None:
            generator = torch.Generator().manual_seed(torch.initial_seed())
        points = torch.linspace(-8.0, 8.0, 1601, dtype=torch.float64)
        weights = torch.softmax(-0.5 * points**2, dim=0)
        share = 1.0 if self.base_weight is None else 0.5

        def spread(values: torch.Tensor) -> float:  # [num_points, num_functions]
            mean = weights @ values
            return math.sqrt(
                share / (self.in_features * float((weights @ (values - mean) ** 2).sum()))
            )

        # the first input stands for all: start grids are equal
        values = self.basis_functions(
            points.unsqueeze(-1), self.grid_step[:1].double(), self.grid_zero[:1].double()
        )
        scale = spread(values.squeeze(1))
        self.coefficients.copy_(
            scale * _normal(self.coefficients.shape, generator).to(self.coefficients)
        )
        if self.base_weight is not None:
            scale = spread(torch.nn.functional.silu(points).unsqueeze(-1))
            self.base_weight.copy_(
                scale * _normal(self.base_weight.shape, generator).to(self.base_weight)
            )
        if self.input_gain is not None:
            self.input_gain.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer.

        Args:
            x: [..., in_features].

        Returns:
            [..., out_features].
        """
        leading = x.shape[:-1]
        x = x.reshape(-1, self.in_features)
        if torch.jit.is_scripting():
            y = self.by_definition(x)
        elif self.out_features == 1 and function_sums.apply_to(x, self.basis, self.num_basis):
            y = self.by_tables(x)
        else:
            y = self.by_definition(x)
        return y.reshape(leading + y.shape[-1:])

    def by_definition(self, x: torch.Tensor) -> torch.Tensor:
        """The layer as the class defines it, and as compilers see it.

        Args:
            x: [num_points, in_features].

        Returns:
            [num_points, out_features].
        """
        gain = self.input_gain
        z = x if gain is None else x * gain
        y = self.expansion(z)
        base_weight = self.base_weight
        if base_weight is not None:
            y = y + torch.nn.functional.silu(z) @ base_weight.t()
        return y

    def by_tables(self, x: torch.Tensor) -> torch.Tensor:
        """The same for one output without a tensor over the basis: for eager training."""
        w, rest, scale, grid, family = self.tables()
        return function_sums.sum_of_functions(x, scale, w, rest, grid, family).unsqueeze(-1)

    def tables(self) -> function_sums.Tables:
        """The arguments behind x of :func:`kan_md.ops.function_sums.sum_of_functions`, in order.

        Of a layer with one output, differentiable in its parameters.
        """
        family = function_sums.Family(self.basis, self.steps, 0, self.zero_preserving)
        w, rest = function_sums.tables(
            self.coefficients[0] / self.norm,
            None if self.base_weight is None else self.base_weight[0],
            self.grid_zero,
            self.end_slopes(self.grid_zero),
            self.pieces,
            family,
        )
        scale = (1.0 if self.input_gain is None else self.input_gain) / self.grid_step
        return w, rest, scale, torch.stack([self.grid_zero, self.grid_step]), family

    def expansion(self, z: torch.Tensor) -> torch.Tensor:
        """Σ_i Σ_m c_oim (B_m(z_i) - B_m(0)).

        Args:
            z: [num_points, in_features], gain times input.

        Returns:
            [num_points, out_features].
        """
        features, low, high = self.expand(z / self.grid_step, self.grid_zero)
        coefficients = self.coefficients / self.norm
        slope = self.end_slopes(self.grid_zero)  # [2, in_features, num_basis]
        ends = (slope.unsqueeze(1) * coefficients).sum(-1)  # [2, out_features, in_features]
        y = features.flatten(1) @ coefficients.flatten(1).t()
        return y + low @ ends[0].t() + high @ ends[1].t()

    def univariate(self, x: torch.Tensor) -> torch.Tensor:
        """The terms φ_oi(x_i) of the sum: [num_points, in_features, out_features]."""
        z = x if self.input_gain is None else x * self.input_gain
        values = self.basis_functions(z, self.grid_step, self.grid_zero)
        terms = torch.einsum("nim,oim->nio", values, self.coefficients)
        if self.base_weight is not None:
            base = torch.nn.functional.silu(z)
            terms = terms + torch.einsum("ni,oi->nio", base, self.base_weight)
        return terms

    def basis_functions(
        self, z: torch.Tensor, step: torch.Tensor, zero: torch.Tensor
    ) -> torch.Tensor:
        """What the coefficients multiply, tails included, on grids of one's choice.

        Args:
            z: [num_points, num_inputs], gain times input.
            step: [num_inputs], grid spacing.
            zero: [num_inputs], position of z = 0 in steps from the lower end.

        Returns:
            [num_points, num_inputs, num_basis].
        """
        features, low, high = self.expand(z / step, zero)
        slope = self.end_slopes(zero)
        features = features + low.unsqueeze(-1) * slope[0] + high.unsqueeze(-1) * slope[1]
        return features / self.norm

    def expand(
        self, s: torch.Tensor, zero: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Basis functions at the nearest points of the grid, and how far those are.

        Args:
            s: [num_points, num_inputs], g x in steps.
            zero: [num_inputs], ``grid_zero``.

        Returns:
            features [num_points, num_inputs, num_basis] (times ``norm``), and the steps below the
            lower (<= 0) and above the upper (>= 0) end, [num_points, num_inputs] each.
        """
        # With slope 1 at the ends; that of clamp is 1 or 0 there, by the version of torch.
        inside = torch.where(s < -zero, -zero, s)
        inside = torch.where(s > self.steps - zero, self.steps - zero, inside)
        beyond = s - inside
        if self.basis == "bspline":
            features = bases.bspline(
                inside + zero, zero, self.pieces, self.steps, self.zero_preserving
            )
        elif self.basis == "gaussian":
            features = bases.gaussian(inside, zero, self.num_basis, self.zero_preserving)
        else:
            features = bases.fourier(inside, self.num_basis, self.zero_preserving)
        return features, beyond.clamp(max=0.0), beyond.clamp(min=0.0)

    def end_slopes(self, zero: torch.Tensor) -> torch.Tensor:
        """Slopes dB_m/du at both ends of the grid, times ``norm``: [2, num_inputs, num_basis]."""
        if self.basis == "bspline":
            slope = torch.zeros(
                2, zero.shape[0], self.num_basis, dtype=zero.dtype, device=zero.device
            )
            for m in range(len(self.pieces)):
                piece = self.pieces[m]
                at_upper = 0.0
                for p in range(1, len(piece)):
                    at_upper += p * piece[p]
                slope[0, :, m] = piece[1]
                slope[1, :, self.steps - 1 + m] = at_upper
            return slope
        ends = torch.stack([-zero, self.steps - zero])  # s at the ends, [2, num_inputs]
        if self.basis == "gaussian":
            centre = torch.arange(self.num_basis, dtype=zero.dtype, device=zero.device)
            distance = (ends + zero).unsqueeze(-1) - centre
            return -2.0 * distance * torch.exp(-torch.square(distance))
        frequency = torch.arange(1, self.num_basis // 2 + 1, dtype=zero.dtype, device=zero.device)
        frequency = 2.0 * math.pi * frequency
        angle = ends.unsqueeze(-1) * frequency
        return torch.cat([frequency * torch.cos(angle), -frequency * torch.sin(angle)], dim=-1)

    def extra_repr(self) -> str:
        """Sizes and kind, for ``print``."""
        kind = f"{self.basis}, num_basis={self.num_basis}"
        if self.basis == "bspline":
            kind += f", order={self.order}"
        return f"{self.in_features} -> {self.out_features}, {kind}, base={self.base}"


def _check(name: str, found: object, valid: bool, allowed: str) -> None:
    if not valid:
        raise user_error(name, found=found, allowed=allowed, remedy=f"set {name}")


def _normal(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Normal numbers in float64, the same for every dtype and device of the layer."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
