"""Building an ETGNN, and what others ask of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from nequip.model import model_builder
from nequip.nn import SequentialGraphNetwork

from kan_md.backbones.etgnn.network import TensorNetwork
from kan_md.backbones.etgnn.output import make_outputs
from kan_md.backbones.etgnn.spec import TensorSpec, parse_tensors
from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.sites import FunctionSlot, put_readouts
from kan_md.errors import user_error


@model_builder
def ETGNNKANModel(  # noqa: N802 - nequip names builders like classes
    *,
    type_names: Sequence[str],
    r_max: float,
    tensors: TensorSpec | Mapping | str | Sequence = "bec",
    readout: ReadoutConfig | Mapping | str | None = None,
    triplet_r_max: float | None = None,
    num_layers: int = 2,
    num_features: int = 64,
    num_triplet_features: int = 32,
    num_radial: int = 8,
    num_angular: int = 6,
    avg_num_neighbors: float = 30.0,
    avg_num_triplets: float = 15.0,
    scales: Mapping[str, float] | None = None,
    type_shifts: Mapping[str, Sequence[float]] | None = None,
) -> torch.nn.Module:
    """ETGNN with KAN readouts; a target for ``nequip-train`` configurations.

    The published model has 4 layers, 128 and 64 features, ``r_max`` 6 Å and ``triplet_r_max`` 4 Å.

    Args:
        type_names: names of the species.
        r_max: cutoff of edges, Å.
        tensors: what to predict, see :class:`kan_md.backbones.etgnn.spec.TensorSpec`.
        readout: see :class:`kan_md.backbones.readout.ReadoutConfig`; sites ``heads`` (the default),
            ``edge_up``, ``node_up``.
        triplet_r_max: cutoff of both legs of a triplet, Å; two thirds of ``r_max`` where ``None``.
        num_layers: number of blocks.
        num_features: columns of edge messages.
        num_triplet_features: columns of triplet messages.
        num_radial: radial functions.
        num_angular: Legendre polynomials of the angle.
        avg_num_neighbors: typical number of edges per atom.
        avg_num_triplets: typical number of triplets per short edge.
        scales: per tensor name, size of the labels' variation.
        type_shifts: per tensor name, isotropic part per type (ranks 0 and 2).

    Returns:
        Module from positions, or edge vectors, to the tensors' fields.

    Raises:
        KanMdError: a value is not allowed.
    """
    specs = parse_tensors(tensors)
    config = parse_readout(readout)
    # The published name of the sites that every backbone calls its output.
    output = tuple("output" if site == "heads" else site for site in config.sites)
    config = config.model_copy(update={"sites": tuple(dict.fromkeys(output))})
    triplet_r_max = default_triplet_r_max(r_max) if triplet_r_max is None else triplet_r_max
    _check_cutoffs(r_max, triplet_r_max)
    _check_at_least_one(
        num_layers=num_layers,
        num_features=num_features,
        num_triplet_features=num_triplet_features,
        num_radial=num_radial,
        num_angular=num_angular,
    )
    for spec in specs:
        spec.register()
    network = TensorNetwork(
        type_names,
        specs,
        r_max=r_max,
        triplet_r_max=triplet_r_max,
        num_layers=num_layers,
        num_features=num_features,
        num_triplet_features=num_triplet_features,
        num_radial=num_radial,
        num_angular=num_angular,
        avg_num_neighbors=avg_num_neighbors,
        avg_num_triplets=avg_num_triplets,
        scales=scales or {},
        type_shifts=type_shifts or {},
    )
    put_readouts(sites(network), config, backbone="etgnn")
    return SequentialGraphNetwork({"network": network, **make_outputs(specs, network.irreps_out)})


def default_triplet_r_max(r_max: float) -> float:
    """Cutoff of triplet legs where none is given, Å: two thirds of ``r_max``, as published."""
    return 2.0 / 3.0 * r_max


def sites(model: torch.nn.Module) -> dict[str, list[FunctionSlot]]:
    """Slots of an ETGNN by site: ``output`` (its heads), ``edge_up``, ``node_up``.

    Args:
        model: what the builder returns, or a module that holds it.
    """
    network = _network(model)
    names = ("edge_readout", "triplet_readout", "atom_readout")
    nodes = [network.first_node_block, *network.node_blocks]
    return {
        "output": [
            FunctionSlot(head, name, f"{head.tensor} per {name.removesuffix('_readout')}")
            for head in network.heads
            for name in names
            if getattr(head, name) is not None
        ],
        "edge_up": [
            FunctionSlot(block, "up", f"layer {number}")
            for number, block in enumerate(network.edge_blocks, start=1)
        ],
        "node_up": [
            FunctionSlot(block, "up", f"layer {number}") for number, block in enumerate(nodes)
        ],
    }


def num_layers(model: torch.nn.Module) -> int:
    """Hops from an atom to the farthest atom that its tensors depend on."""
    return _network(model).num_layers + 1


def receptive_field(model: torch.nn.Module) -> float:
    """Distance to the farthest atom that an atom's tensors depend on, Å.

    Information travels along triplet legs only, so this is shorter than hops times ``r_max``.
    """
    network = _network(model)
    return max(network.r_max, num_layers(model) * network.triplet_r_max)


def _network(model: torch.nn.Module) -> TensorNetwork:
    (network,) = (m for m in model.modules() if isinstance(m, TensorNetwork))
    return network


def _check_cutoffs(r_max: float, triplet_r_max: float) -> None:
    if not r_max > 0:
        raise user_error("r_max must be > 0 Å", found=r_max, allowed=None, remedy="set model.r_max")
    if not 0 < triplet_r_max <= r_max:
        raise user_error(
            "triplet_r_max",
            found=triplet_r_max,
            allowed=f"0 < triplet_r_max <= r_max = {r_max} Å",
            remedy="set model.triplet_r_max",
        )


def _check_at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise user_error(
                f"{name} must be >= 1", found=value, allowed=None, remedy=f"set model.{name}"
            )
