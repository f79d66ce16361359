"""How curved the functions of a KAN layer are: ∫ φ''(s)² ds, exact."""

from __future__ import annotations

import numpy as np
import torch

from kan_md.kan.layer import KANLayer

_POINTS_PER_STEP = 16
"""Of Gauss and Legendre: exact for polynomials up to degree 31, to rounding for Gaussians and for
the sines of the highest frequency, which has at most half a period in a step."""


@torch.enable_grad()
def roughness(layer: KANLayer) -> torch.Tensor:
    """G_mn = ∫ B_m''(s) B_n''(s) ds over the grid, s in steps: [num_basis, num_basis] float64.

    The same for all inputs, whose grids differ in step and place only. Beyond the grid functions
    are lines and have no curvature.

    Args:
        layer: any.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS_PER_STEP)
    starts = torch.arange(layer.steps, dtype=torch.float64).unsqueeze(1)
    points = (starts + 0.5 + 0.5 * torch.from_numpy(nodes)).flatten().requires_grad_()
    weight = torch.from_numpy(0.5 * weights).repeat(layer.steps)
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    values = layer.basis_functions(points.unsqueeze(1), one, none)[:, 0]  # [points, num_basis]
    curvatures = []
    for m in range(layer.num_basis):
        (slope,) = torch.autograd.grad(values[:, m].sum(), points, create_graph=True)
        if slope.requires_grad:
            curvatures.append(torch.autograd.grad(slope.sum(), points, retain_graph=True)[0])
        else:
            curvatures.append(torch.zeros_like(points))
    curvature = torch.stack(curvatures, dim=1).detach()
    return curvature.T @ (weight.unsqueeze(1) * curvature)
