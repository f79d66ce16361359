"""From a model builder of nequip or Allegro and its arguments to kan-md's own arguments."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence

import torch
from e3nn.o3 import Irreps
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.build import adapter_of
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.backbones.targets import check_targets
from kan_md.errors import KanMdError, user_error

_BUILDERS = {
    ("allegro", "AllegroModel"): ("allegro", "allegro.model.allegro_models"),
    ("allegro", "FullAllegroModel"): ("allegro", "allegro.model.allegro_models"),
    ("nequip", "NequIPGNNModel"): ("nequip", "nequip.model.nequip_models"),
    ("nequip", "FullNequIPGNNModel"): ("nequip", "nequip.model.nequip_models"),
    ("nequip", "PresetNequIPGNNModel"): ("nequip", "nequip.model.nequip_models"),
}
"""Backbone and module of each builder, by its package and name."""

_OF_THE_RUN = ("seed", "compile_mode", "do_derivatives", "_recursive_", "_convert_")
"""Arguments that leave the energy what it is."""
_DROPPED = {"scatter_features": False}
"""Arguments of earlier versions that have no effect with these values."""
_NONLINEARITIES = {None: None, "None": None, "null": None}
_NAMES = ("silu", "mish", "gelu", "ssp", "tanh")


def find_builder(target: str) -> tuple[str, str]:
    """Backbone of a builder, and its name in the installed package.

    Raises:
        KanMdError: it is no builder of a potential by nequip or Allegro.
    """
    package, name = target.split(".")[0], target.rsplit(".", 1)[-1]
    if (package, name) not in _BUILDERS:
        raise user_error(
            "builder of the model",
            found=target,
            allowed=", ".join(name for _, name in _BUILDERS),
            remedy="only potentials by these can be converted",
        )
    backbone, module = _BUILDERS[package, name]
    return backbone, f"{module}:{name}"


def complete_arguments(
    arguments: Mapping[str, object], state: Mapping[str, torch.Tensor]
) -> dict[str, object]:
    """Arguments as the installed builders take them.

    Energies of types come from the weights, and so does the depth of radial networks, whose default
    is another one since nequip 0.13.

    Args:
        arguments: of the builder, from the file.
        state: the weights.

    Raises:
        KanMdError: energies of types are missing.
    """
    found = {name: value for name, value in arguments.items() if name not in _OF_THE_RUN}
    for name, value in _DROPPED.items():
        if found.get(name, value) == value:
            found.pop(name, None)
    type_names = list(found["type_names"])
    for name, key in (("per_type_energy_scales", "scales"), ("per_type_energy_shifts", "shifts")):
        ending = f"per_type_energy_scale_shift.{key}"
        numbers = [v for n, v in state.items() if n.endswith(ending) and v.numel()]
        if not numbers and arguments.get(name) is not None:
            raise user_error(
                "weights of the file are not all there",
                found=f"no {ending}",
                allowed=None,
                remedy="get an intact copy",
            )
        neutral = 1.0 if key == "scales" else 0.0
        values = numbers[0].double().flatten() if numbers else torch.tensor([neutral])
        values = values.expand(len(type_names)).tolist()
        found[name] = dict(zip(type_names, values, strict=True))
    radial = re.compile(r"\.layer0_convnet\.conv\.edge_mlp\.mlp\.\d+\.weight$")
    layers = [v for n, v in state.items() if radial.search(n)]
    if layers and "feature_irreps_hidden" not in found and "preset" not in found:
        found["radial_mlp_depth"] = len(layers) - 1
        if len(layers) > 1:
            found["radial_mlp_width"] = layers[0].size(1)
    return found


def build_upstream(builder: str, arguments: Mapping[str, object]) -> GraphModel:
    """Call one of upstream's own builders, in float64.

    Args:
        builder: ``module:function``, of :func:`find_builder`.
        arguments: of :func:`complete_arguments`.

    Raises:
        KanMdError: the installed builder refuses the arguments.
    """
    check_targets(arguments)
    module, _, name = builder.partition(":")
    function = getattr(importlib.import_module(module), name)
    with nequip_settings():
        try:
            model = function(**dict(arguments) | {"seed": 0, "model_dtype": "float64"})
        except Exception as error:  # as many kinds as there are arguments
            raise user_error(
                f"the installed {module.split('.')[0]} does not build this model",
                found=" ".join(str(error).split())[:300] or type(error).__name__,
                allowed=None,
                remedy="convert it where the version is installed that trained it",
            ) from error
    return model.eval()


def own_arguments(
    backbone: str, builder: str, arguments: Mapping[str, object]
) -> dict[str, object]:
    """Arguments of :func:`kan_md.backbones.build.build_model` for the same model.

    All but seed and dtype; the readout is upstream's, as kan-md writes it.

    Args:
        backbone: ``allegro`` or ``nequip``.
        builder: of :func:`find_builder`.
        arguments: of :func:`complete_arguments`.

    Raises:
        KanMdError: an argument says something that kan-md's model cannot be.
    """
    found = dict(arguments)
    found.pop("model_dtype", None)
    name = builder.partition(":")[2]
    if name == "PresetNequIPGNNModel":
        found = _of_preset(found)
    if name == "FullAllegroModel":
        found = _of_full_allegro(found)
    if name == "FullNequIPGNNModel":
        found = _of_full_nequip(found)
    found["readout"] = _readout(backbone, found)
    known = adapter_of(backbone).hyperparameters().keys() | {"type_names", "r_max", "readout"}
    unknown = sorted(found.keys() - known)
    if unknown:
        raise _not_ours(unknown[0], found[unknown[0]])
    return found


def _readout(backbone: str, found: dict[str, object]) -> dict[str, object]:
    """Take upstream's arguments of the readout out of ``found``, and write them as ours."""
    given = {
        key: found.pop(f"readout_mlp_{key}", default)
        for key, default in {
            "hidden_layers_depth": 1 if backbone == "allegro" else 0,
            "hidden_layers_width": 32 if backbone == "allegro" else None,
            "nonlinearity": "silu",
        }.items()
    }
    depth, width = given["hidden_layers_depth"], given["hidden_layers_width"]
    nonlinearity = _NONLINEARITIES.get(given["nonlinearity"], given["nonlinearity"])
    if depth == 0 or nonlinearity is None:
        return {"kind": "linear"}
    if nonlinearity not in _NAMES:
        raise _not_ours("readout_mlp_nonlinearity", nonlinearity, allowed=", ".join(_NAMES))
    if width is None:
        width = _scalar_features(found)
    return {"kind": "mlp", "hidden": [width] * depth, "nonlinearity": nonlinearity}


def _scalar_features(found: Mapping[str, object]) -> int:
    features = found.get("num_features", 32)
    return int(features[0] if isinstance(features, Sequence) else features)


def _of_preset(found: dict[str, object]) -> dict[str, object]:
    from nequip.model import nequip_models

    preset = nequip_models._NEQUIP_GNN_PRESETS[str(found.pop("preset")).upper()]
    return {**nequip_models._NEQUIP_GNN_STANDARD_PRESET, **preset, **found}


def _of_full_allegro(found: dict[str, object]) -> dict[str, object]:
    harmonics = _irreps(found.pop("irreps_edge_sh"))
    allowed = Irreps(str(found.pop("tensor_track_allowed_irreps")))
    kinds = {ir for _, ir in allowed}
    l_max = harmonics.lmax
    if Irreps.spherical_harmonics(l_max, p=-1) != harmonics:
        raise _not_ours("irreps_edge_sh", harmonics)
    every = {ir for n in range(l_max + 1) for _, ir in Irreps(f"{n}e + {n}o")}
    if kinds not in (every, {ir for _, ir in harmonics}):
        raise _not_ours("tensor_track_allowed_irreps", allowed)
    return {"l_max": l_max, "parity": kinds == every, **found}


def _of_full_nequip(found: dict[str, object]) -> dict[str, object]:
    harmonics = _irreps(found.pop("irreps_edge_sh"))
    layers = [Irreps(str(irreps)) for irreps in found.pop("feature_irreps_hidden")]
    l_max = harmonics.lmax
    if Irreps.spherical_harmonics(l_max) != harmonics:
        raise _not_ours("irreps_edge_sh", harmonics)
    features = [
        max((mul for mul, ir in layers[0] if ir.l == n), default=0) for n in range(l_max + 1)
    ]
    features[0] = layers[-1].dim
    for parity in (True, False):
        hidden = Irreps(
            [
                (features[n], (n, p))
                for n in range(l_max + 1)
                for p in ((1, -1) if parity else ((-1) ** n,))
            ]
        )
        if layers == [hidden] * (len(layers) - 1) + [Irreps([(features[0], (0, 1))])]:
            break
    else:
        raise _not_ours("feature_irreps_hidden", "; ".join(map(str, layers)))
    for name in ("radial_mlp_depth", "radial_mlp_width"):
        values = set(found[name])
        if len(values) > 1:
            raise _not_ours(name, found[name])
        found[name] = values.pop()
    return {
        "l_max": l_max,
        "parity": parity,
        "num_layers": len(layers),
        "num_features": features,
        **found,
    }


def _irreps(given: object) -> Irreps:
    return Irreps.spherical_harmonics(given) if isinstance(given, int) else Irreps(str(given))


def _not_ours(name: str, value: object, *, allowed: str | None = None) -> KanMdError:
    return user_error(
        f"argument {name} of the model's builder",
        found=value,
        allowed=allowed,
        remedy="a model with this one cannot be converted",
    )
