"""Matrices between channels out of e3nn's modules, as functions of their parameters."""

from __future__ import annotations

import torch
from e3nn.nn import FullyConnectedNet
from e3nn.o3 import FullyConnectedTensorProduct, Irreps, Linear, wigner_3j

Matrices = dict[tuple[int, int], torch.Tensor]
"""By number of the irreps that comes in and of the one that goes out."""


def knows_linear(linear: torch.nn.Module) -> bool:
    """Whether :func:`linear_matrices` reads a module."""
    return type(linear) is Linear and linear.bias.numel() == 0 and linear.internal_weights


def linear_matrices(linear: Linear) -> Matrices:
    """[channels in, channels out] of every path, normalisation included."""
    found: Matrices = {}
    for number, path in enumerate(linear.instructions):
        weight = linear.weight_view_for_instruction(number) * path.path_weight
        place = (path.i_in, path.i_out)
        found[place] = weight if place not in found else found[place] + weight
    return found


def knows_product_with_types(product: torch.nn.Module) -> bool:
    """Whether :func:`typed_matrices` reads a module."""
    return (
        type(product) is FullyConnectedTensorProduct
        and len(product.irreps_in2) == 1
        and product.irreps_in2[0].ir == (0, 1)
        and product.internal_weights
    )


def typed_matrices(product: FullyConnectedTensorProduct) -> Matrices:
    """[types, channels in, channels out] of every path, for one-hot types as second argument."""
    found: Matrices = {}
    for number, path in enumerate(product.instructions):
        degree = product.irreps_in1[path.i_in1].ir.l
        factor = path.path_weight * float(
            wigner_3j(degree, 0, degree, dtype=torch.float64)[0, 0, 0]
        )
        weight = product.weight_view_for_instruction(number).transpose(0, 1) * factor
        place = (path.i_in1, path.i_out)
        found[place] = weight if place not in found else found[place] + weight
    return found


def between_irreps(matrices: Matrices, irreps_in: Irreps, irreps_out: Irreps) -> Matrices:
    """The same between irreps of which those that go out come once: what enters, side by side.

    Returns:
        By (0, number of the output), [channels of all inputs of its kind, channels out].
    """
    found: Matrices = {}
    for output, (mul, ir) in enumerate(irreps_out):
        rows = []
        for number, (channels, kind) in enumerate(irreps_in):
            if kind == ir:
                known = matrices.get((number, output))
                if known is None:
                    like = next(iter(matrices.values()))
                    known = like.new_zeros(*like.shape[:-2], channels, mul)
                rows.append(known)
        if rows:
            found[0, output] = torch.cat(rows, dim=-2)
    return found


def knows_network(network: torch.nn.Module) -> bool:
    """Whether :func:`network_weights` reads a module: an e3nn perceptron with SiLU."""
    if type(network) is not FullyConnectedNet:
        return False
    *hidden, last = network
    acts = [getattr(layer.act, "f", None) for layer in hidden]
    return last.act is None and all(act is torch.nn.functional.silu for act in acts)


def network_weights(network: FullyConnectedNet) -> list[torch.Tensor]:
    """Matrices between plain SiLUs, with e3nn's factors in them."""
    weights, factor = [], 1.0
    for layer in network:
        variance = layer.h_in * layer.var_in
        if layer.act is None:
            weights.append(layer.weight * (factor * (layer.var_out / variance) ** 0.5))
        else:
            weights.append(layer.weight * (factor / variance**0.5))
            act = layer.act
            factor = (1.0 if act._is_id else act.cst) * layer.var_out**0.5
    return weights
