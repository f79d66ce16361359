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


def typed_matrices(
    product: FullyConnectedTensorProduct, rows: torch.Tensor | None = None
) -> Matrices:
    """[types, channels in, channels out] of every path.

    Args:
        product: that :func:`knows_product_with_types` knows.
        rows: [types, scalars], its second argument for each type; one-hot where None.
    """
    found: Matrices = {}
    for number, path in enumerate(product.instructions):
        degree = product.irreps_in1[path.i_in1].ir.l
        factor = path.path_weight * float(
            wigner_3j(degree, 0, degree, dtype=torch.float64)[0, 0, 0]
        )
        weight = product.weight_view_for_instruction(number).transpose(0, 1) * factor
        if rows is not None:
            weight = torch.tensordot(rows, weight, dims=1)
        place = (path.i_in1, path.i_out)
        found[place] = weight if place not in found else found[place] + weight
    return found


def joined_by_kind(matrices: Matrices, irreps_in: Irreps, irreps_out: Irreps) -> list[torch.Tensor]:
    """For each irreps that goes out, the matrices of all of its kind that come in, one below other.

    Args:
        matrices: of a linear map.
        irreps_in: of it, some kinds several times.
        irreps_out: of it, every kind once and fed by something.
    """
    return [
        torch.cat(
            [matrices[source, target] for source, (_, kind) in enumerate(irreps_in) if kind == ir]
        )
        for target, (_, ir) in enumerate(irreps_out)
    ]


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
