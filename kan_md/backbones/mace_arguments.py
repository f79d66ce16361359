"""Arguments of the MACE adapter as people and files give them, in its own names and meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kan_md.errors import user_error


def upstream_names(hyperparameters: Mapping[str, object]) -> dict[str, object]:
    """Write the names that the other backbones have, too, as mace-torch's.

    ``num_layers`` is ``num_interactions``, ``l_max`` is ``max_ell``; ``num_scalar_features: n`` and
    ``num_tensor_features: n`` are ``hidden_irreps: n x 0e + n x 1o``.

    Raises:
        KanMdError: a value is given by both names, or the features are not equally many.
    """
    names = dict(hyperparameters)
    for friendly, upstream in (("num_layers", "num_interactions"), ("l_max", "max_ell")):
        if friendly in names:
            _check_given_once(names, [friendly], upstream)
            names[upstream] = names.pop(friendly)
    widths = [name for name in ("num_scalar_features", "num_tensor_features") if name in names]
    if widths:
        _check_given_once(names, widths, "hidden_irreps")
        names["hidden_irreps"] = _irreps_of_widths({name: names.pop(name) for name in widths})
    return names


def _check_given_once(names: Mapping[str, object], friendly: Sequence[str], upstream: str) -> None:
    if upstream in names:
        given = [*friendly, upstream]
        raise user_error(
            f"{' and '.join(f'model.{name}' for name in given)} of mace say the same",
            found=", ".join(f"{name} {names[name]}" for name in given),
            allowed="one of them",
            remedy=f"leave out {' and '.join(f'model.{name}' for name in friendly)}",
        )


def _irreps_of_widths(widths: Mapping[str, object]) -> str:
    """Irreps of equally many scalars and vectors, or of scalars alone."""
    for name, width in widths.items():
        least = 1 if name == "num_scalar_features" else 0
        if not isinstance(width, int) or isinstance(width, bool) or width < least:
            raise user_error(
                f"{name} of mace",
                found=repr(width),
                allowed=f"a whole number >= {least}",
                remedy=f"change model.{name}",
            )
    tensors = widths.get("num_tensor_features", 0)
    scalars = widths.get("num_scalar_features", tensors)
    if tensors not in (0, scalars) or not scalars:
        raise user_error(
            "num_tensor_features of mace, whose scalars and vectors are equally many",
            found=f"{tensors} beside num_scalar_features {scalars}",
            allowed=f"{scalars} or 0" if scalars else ">= 1 without num_scalar_features",
            remedy="change model.num_tensor_features, or write model.hidden_irreps",
        )
    return f"{scalars}x0e + {tensors}x1o" if tensors else f"{scalars}x0e"


def _has_radial_networks_of_upstream(state: Mapping[str, torch.Tensor]) -> bool:
    return any(".conv_tp_weights.layer0." in name for name in state)


def stored_arguments(
    arguments: Mapping[str, object], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, object], str | None]:
    """Read the arguments of a model file as what was built from them when it was written.

    Args:
        arguments: of :func:`MACEKANModel`, by its names.
        state: the weights, by name.

    Returns:
        Arguments that build the same today, and what is to be said of them, if anything.
    """
    arguments = dict(arguments)
    readout = dict(arguments.get("readout") or {})
    if "all" in readout.get("sites", ()) and _has_radial_networks_of_upstream(state):
        readout["sites"] = ["output"]  # the only site, when this was written
        arguments["readout"] = readout
    if readout.get("kind") != "mlp":
        return arguments, None
    if arguments.get("MLP_irreps") is not None:
        readout.pop("hidden", None)  # had no effect beside it
    note = None
    only_one = arguments.get("num_interactions", 2) == 1
    if only_one and any(".readout0.block.linear." in name for name in state):
        readout = {"kind": "linear"}
        note = (
            "a MACE of one layer with readout.kind mlp, written when that was built as upstream's "
            "linear map: it is read as readout.kind linear"
        )
    return arguments | {"readout": readout}, note
