"""Penalties that drive a KAN towards few functions, L1 and entropy, or smooth ones: curvature."""

from __future__ import annotations

import torch

from kan_md.kan.layer import KANLayer
from kan_md.kan.roughness import roughness

_ROUGHNESS: dict[tuple, torch.Tensor] = {}


def function_sizes(layer: KANLayer) -> torch.Tensor:
    """Size of every univariate function: mean |c_m| over the basis plus |w_base|.

    Returns:
        [out_features, in_features], >= 0.
    """
    size = layer.coefficients.abs().mean(dim=-1)
    return size if layer.base_weight is None else size + layer.base_weight.abs()


def l1_penalty(model: torch.nn.Module) -> torch.Tensor:
    """Sum of the sizes of all functions of all KAN layers in ``model``, a scalar."""
    return _total([function_sizes(layer).sum() for layer in _layers(model)])


def entropy_penalty(model: torch.nn.Module) -> torch.Tensor:
    """Sum over KAN layers of -Σ p ln p, p the share of each function in its layer's total size.

    Small where a few functions carry a layer, at most ln(in_features * out_features). The
    derivative of p ln p diverges at p = 0, and p itself is 0/0 in a layer of zeros: the argument of
    the logarithm and the total are cut off at the machine epsilon, which changes the value by less
    than rounding does and makes every gradient finite.
    """
    penalties = []
    for layer in _layers(model):
        size = function_sizes(layer)
        epsilon = torch.finfo(size.dtype).eps
        share = size / size.sum().clamp_min(epsilon)
        penalties.append(-(share * share.clamp_min(epsilon).log()).sum())
    return _total(penalties)


def curvature_penalty(model: torch.nn.Module) -> torch.Tensor:
    """Sum of ∫ φ''(s)² ds over all functions of all KAN layers in ``model``, a scalar.

    s counts steps of the grid, so that it does not depend on the size of the inputs; φ is the
    expansion without its base function, squared in the units of the layer's output. As in smoothing
    splines (P. Craven, G. Wahba, Numer. Math. 1978;31:377). What it does above all is where a grid
    has no inputs: there nothing else keeps a function from going anywhere, and an optimiser that
    scales each gradient by its own size takes full steps after none.
    """
    penalties = []
    for layer in _layers(model):
        matrix = roughness_matrix(layer)
        c = layer.coefficients
        penalties.append(torch.einsum("oim,mn,oin->", c, matrix.to(c), c))
    return _total(penalties)


def roughness_matrix(layer: KANLayer) -> torch.Tensor:
    """:func:`kan_md.kan.roughness.roughness`, calculated once for all layers of a kind."""
    key = (layer.basis, layer.num_basis, layer.order, layer.zero_preserving)
    if key not in _ROUGHNESS:
        _ROUGHNESS[key] = roughness(layer)
    return _ROUGHNESS[key]


def regularization(
    model: torch.nn.Module,
    loss: torch.Tensor,
    *,
    l1: float = 0.0,
    entropy: float = 0.0,
    curvature: float = 0.0,
) -> torch.Tensor:
    """The term to add to a loss: weights times penalties, the curvature's times the loss as well.

    A loss falls by orders of magnitude in a training and differs by as many from one set to
    another. What is relative to it asks as much of a function everywhere: with the loss L and the
    penalty P, L (1 + w P) falls as long as log L falls by more than P rises.

    Args:
        model: any module that holds KAN layers.
        loss: without penalties, a scalar; not differentiated here.
        l1: weight of :func:`l1_penalty`, >= 0.
        entropy: weight of :func:`entropy_penalty`, >= 0.
        curvature: weight of :func:`curvature_penalty` in units of the loss, >= 0.

    Returns:
        A scalar; zero for a model without KAN layers.
    """
    absolute = ((l1, l1_penalty), (entropy, entropy_penalty))
    terms = [weight * penalty(model) for weight, penalty in absolute if weight]
    if curvature:
        terms.append(curvature * loss.detach() * curvature_penalty(model))
    return _total(terms)


def _layers(model: torch.nn.Module) -> list[KANLayer]:
    return [module for module in model.modules() if isinstance(module, KANLayer)]


def _total(terms: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros(())
