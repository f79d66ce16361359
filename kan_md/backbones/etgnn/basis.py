"""Functions of distances and angles that messages are made of."""

from __future__ import annotations

import torch


def envelope(x: torch.Tensor) -> torch.Tensor:
    """Polynomial that falls from 1 at x = 0 to 0 at x = 1 with two continuous derivatives.

    u(x) = 1 - 28 x⁶ + 48 x⁷ - 21 x⁸ for x < 1, else 0 (Gasteiger et al., ICLR 2020, eq. 8, p = 6).

    Args:
        x: distance over cutoff, any shape.
    """
    x6 = x.square() * x.square() * x.square()
    u = 1.0 + x6 * (-28.0 + x * (48.0 - 21.0 * x))
    return torch.where(x < 1.0, u, torch.zeros_like(u))


def radial_basis(x: torch.Tensor, num_radial: int) -> torch.Tensor:
    """Spherical Bessel functions of order 0, b_n(x) = sin(nπx)/(πx), without envelope.

    Args:
        x: [...], distance over cutoff.
        num_radial: highest n.

    Returns:
        [..., num_radial]; the limit n at x = 0.
    """
    n = torch.arange(1, num_radial + 1, dtype=x.dtype, device=x.device)
    return n * torch.sinc(x.unsqueeze(-1) * n)


def angular_basis(cosine: torch.Tensor, num_angular: int) -> torch.Tensor:
    """Legendre polynomials P_0 … P_(num_angular-1) by Bonnet's recursion.

    They are the m = 0 spherical harmonics up to a factor that the next linear map absorbs.

    Args:
        cosine: [...], cosine of the angle between two legs.
        num_angular: number of polynomials.

    Returns:
        [..., num_angular].
    """
    polynomials = [torch.ones_like(cosine)]
    if num_angular > 1:
        polynomials.append(cosine)
    for order in range(2, num_angular):
        polynomials.append(
            (
                (2 * order - 1) * cosine * polynomials[order - 1]
                - (order - 1) * polynomials[order - 2]
            )
            / order
        )
    return torch.stack(polynomials, dim=-1)
