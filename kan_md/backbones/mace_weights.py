"""From a model of mace-torch: its hyperparameters by name, and its weights block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from ase.data import chemical_symbols
from e3nn.o3 import Irreps

from kan_md.backbones.mace import import_mace
from kan_md.backbones.weights import WeightsDoNotFitError, load_weights
from kan_md.errors import user_error

_ENERGY_MODELS = ("MACE", "ScaleShiftMACE")
_RADIAL_TYPES = {
    "BesselBasis": "bessel",
    "GaussianBasis": "gaussian",
    "ChebychevBasis": "chebyshev",
}
_TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}


def build_arguments_of(model: torch.nn.Module) -> dict[str, object]:
    """Arguments with which :func:`kan_md.backbones.build.build_model` makes the same architecture.

    Args:
        model: a ``mace.modules.MACE`` or ``ScaleShiftMACE`` with one head.

    Raises:
        KanMdError: the model has parts that the adapter does not know.
    """
    _check_supported(model)
    modules = import_mace()
    type_names = [chemical_symbols[number] for number in model.atomic_numbers.tolist()]
    interactions, products = model.interactions, model.products
    radial = model.radial_embedding
    hidden = Irreps(str(products[0].linear.irreps_out))
    last = Irreps(str(products[-1].linear.irreps_out))
    transform = getattr(radial, "distance_transform", None)
    edge_irreps = getattr(model, "edge_irreps", None)
    scale, shift = 1.0, 0.0
    if hasattr(model, "scale_shift"):
        scale, shift = float(model.scale_shift.scale), float(model.scale_shift.shift)
    reference = model.atomic_energies_fn.atomic_energies.double().view(-1).tolist()
    return {
        "type_names": type_names,
        "r_max": float(model.r_max),
        "avg_num_neighbors": float(interactions[0].avg_num_neighbors),
        "hidden_irreps": str(hidden),
        "num_interactions": len(interactions),
        "max_ell": model.spherical_harmonics.irreps_out.lmax,
        "correlation": [_correlation(product) for product in products],
        "num_bessel": radial.out_dim,
        "num_polynomial_cutoff": int(radial.cutoff_fn.p),
        "radial_MLP": _radial_widths(interactions),
        "radial_type": _RADIAL_TYPES[type(radial.bessel_fn).__name__],
        "distance_transform": _TRANSFORMS.get(type(transform).__name__, "None"),
        "interaction_cls": type(interactions[-1]).__name__,
        "interaction_cls_first": type(interactions[0]).__name__,
        "pair_repulsion": hasattr(model, "pair_repulsion_fn"),
        "apply_cutoff": getattr(model, "apply_cutoff", True),
        "edge_irreps": None if edge_irreps is None else str(edge_irreps),
        "use_edge_irreps_first": getattr(model, "use_edge_irreps_first", False),
        "use_reduced_cg": getattr(model, "use_reduced_cg", False),
        "use_so3": getattr(model, "use_so3", False),
        "use_agnostic_product": getattr(model, "use_agnostic_product", False),
        "use_last_readout_only": getattr(model, "use_last_readout_only", False),
        "keep_last_layer_irreps": len(products) > 1 and last == hidden and hidden.lmax > 0,
        **_readout_arguments(model.readouts[-1], modules.gate_dict),
        "per_type_energy_scales": dict.fromkeys(type_names, scale),
        "per_type_energy_shifts": {
            name: energy + shift for name, energy in zip(type_names, reference, strict=True)
        },
    }


def readout_kind_of(model: torch.nn.Module) -> str:
    """Kind of readout that keeps the model's own: ``mlp``, behind a single layer ``linear``."""
    return "mlp" if hasattr(model.readouts[-1], "non_linearity") else "linear"


def _check_supported(model: torch.nn.Module) -> None:
    name = type(model).__name__
    if name not in _ENERGY_MODELS or hasattr(model, "joint_embedding"):
        found = f"{name} with extra embeddings" if name in _ENERGY_MODELS else name
        raise user_error(
            "kind of MACE model",
            found=found,
            allowed=", ".join(_ENERGY_MODELS),
            remedy="convert a potential from mace_run_train",
        )
    heads = getattr(model, "heads", None) or ["Default"]
    if len(heads) > 1:
        raise user_error(
            "the MACE model has several heads",
            found=", ".join(heads),
            allowed="one",
            remedy="choose one of them with --head",
        )
    if type(model.radial_embedding.bessel_fn).__name__ == "ChebychevBasis":
        raise user_error(
            "radial_type of the MACE model",
            found="chebyshev, which torch does not differentiate: mace-torch's forces are not the "
            "derivative of its energy",
            allowed="bessel, gaussian",
            remedy="train it anew; kan-md's own models may have chebyshev",
        )
    accelerated = [
        module
        for module in model.modules()
        if type(module).__module__.split(".")[0] in ("cuequivariance_torch", "openequivariance")
    ]
    if accelerated:
        raise user_error(
            "the MACE model has accelerated blocks",
            found=type(accelerated[0]).__name__,
            allowed="e3nn blocks",
            remedy="run mace_cueq_to_e3nn on it first",
        )


def _readout_arguments(readout: torch.nn.Module, gates: dict) -> dict[str, object]:
    """Arguments that describe the last readout; a linear one needs none."""
    if not hasattr(readout, "non_linearity"):
        return {}
    (activation,) = readout.non_linearity.acts
    function = getattr(activation, "f", activation)
    names = [name for name, gate in gates.items() if gate is function]
    if not names:
        raise user_error(
            "gate of the MACE readout",
            found=function,
            allowed=", ".join(gates),
            remedy="only these can be converted",
        )
    return {
        "MLP_irreps": str(readout.hidden_irreps),
        "gate": names[0],
        "readout_cls": type(readout).__name__,
    }


def _correlation(product: torch.nn.Module) -> int:
    """Order of a symmetric contraction: one weight array for the highest order, one per lower."""
    return len(product.symmetric_contractions.contractions[0].weights) + 1


def _radial_widths(interactions: Sequence[torch.nn.Module]) -> list[int]:
    """Hidden widths of the radial networks; blocks with attention have widths of their own."""
    chosen = [block for block in interactions if "Att" not in type(block).__name__]
    network = (chosen or list(interactions))[0].conv_tp_weights
    return [int(width) for width in network.hs[1:-1]]


def copy_weights(target: torch.nn.Module, source: torch.nn.Module) -> None:
    """Copy the weights of all blocks, readouts included where ``target`` kept upstream's.

    Args:
        target: a model by :func:`kan_md.backbones.mace.MACEKANModel`.
        source: the model of mace-torch that :func:`build_arguments_of` described.

    Raises:
        KanMdError: a block does not fit.
    """
    for name, ours, theirs in _paired_blocks(target, source):
        try:
            load_weights(ours, theirs.state_dict())
        except WeightsDoNotFitError as error:
            raise user_error(
                f"weights of the MACE block {name}",
                found=error,
                allowed=None,
                remedy="this variant of MACE cannot be converted",
            ) from error


def _paired_blocks(
    target: torch.nn.Module, source: torch.nn.Module
) -> Iterator[tuple[str, torch.nn.Module, torch.nn.Module]]:
    (network,) = (m for m in target.modules() if hasattr(m, "edge_embedding"))
    yield "node_embedding", network.node_embedding.node_embedding, source.node_embedding
    yield "radial_embedding", network.edge_embedding.radial_embedding, source.radial_embedding
    for index, (theirs, product) in enumerate(
        zip(source.interactions, source.products, strict=True)
    ):
        layer = network.get_submodule(f"layer{index}")
        yield f"interactions.{index}", layer.interaction, theirs
        yield f"products.{index}", layer.product, product
    first = len(source.interactions) - len(source.readouts)
    for index, theirs in enumerate(source.readouts):
        ours = network.get_submodule(f"readout{first + index}").block
        if ours is not None:
            yield f"readouts.{index}", ours, theirs
    if hasattr(source, "pair_repulsion_fn"):
        yield "pair_repulsion_fn", network.pair_repulsion.repulsion, source.pair_repulsion_fn
