"""Kolmogorov-Arnold networks: layers of univariate functions, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from kan_md.errors import user_error
from kan_md.kan.layer import BaseFunction, KANLayer


class KAN(torch.nn.Module):
    """Layers ``widths[0] -> widths[1] -> ...`` of :class:`~kan_md.kan.layer.KANLayer`.

    With ``widths=[D, 1]`` it is a sum of univariate functions, the default readout of a potential.
    f(0) = 0 holds bit for bit when ``zero_preserving``.

    Args:
        widths: features before, between and after the layers; at least two numbers.
        basis: ``bspline``, ``gaussian`` or ``fourier``.
        num_basis: basis functions per input of a layer.
        order: degree of the B-spline's pieces, 1 to 5.
        grid_range: ends of every layer's grid, in units of gain times input.
        base: ``silu`` or ``none``, the function beside the expansion.
        input_gain: ``learned`` (one per input of every layer) or ``none``.
        zero_preserving: subtract the value at zero from every basis function.
        generator: random numbers of the start values; without it they follow from
            ``torch.initial_seed()``. The global generator is never advanced.

    Raises:
        KanMdError: an argument outside its range.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        basis: str = "gaussian",
        num_basis: int = 8,
        order: int = 3,
        grid_range: Sequence[float] = (-2.0, 2.0),
        base: BaseFunction = "silu",
        input_gain: Literal["learned", "none"] = "learned",
        zero_preserving: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise user_error(
                "widths of a KAN",
                found=list(widths),
                allowed="at least an input and an output width",
                remedy="set widths",
            )
        if generator is None:
            generator = torch.Generator().manual_seed(torch.initial_seed())
        self.widths = [int(width) for width in widths]
        self.layers = torch.nn.Sequential(
            *(
                KANLayer(
                    before,
                    after,
                    basis=basis,
                    num_basis=num_basis,
                    order=order,
                    grid_range=grid_range,
                    base=base,
                    input_gain=input_gain,
                    zero_preserving=zero_preserving,
                    generator=generator,
                )
                for before, after in zip(self.widths[:-1], self.widths[1:], strict=True)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the network.

        Args:
            x: [..., widths[0]].

        Returns:
            [..., widths[-1]].
        """
        return self.layers(x)
