"""Penalties that drive a KAN towards few functions: L1 and entropy."""

from __future__ import annotations

import torch

from kan_md.kan.layer import KANLayer


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


def regularization(
    model: torch.nn.Module, *, l1: float = 0.0, entropy: float = 0.0
) -> torch.Tensor:
    """The term to add to a loss: l1 times :func:`l1_penalty` plus entropy times
    :func:`entropy_penalty`.

    Args:
        model: any module that holds KAN layers.
        l1: weight of the L1 penalty, >= 0.
        entropy: weight of the entropy penalty, >= 0.

    Returns:
        A scalar; zero for a model without KAN layers.
    """
    return l1 * l1_penalty(model) + entropy * entropy_penalty(model)


def _layers(model: torch.nn.Module) -> list[KANLayer]:
    return [module for module in model.modules() if isinstance(module, KANLayer)]


def _total(terms: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros(())
