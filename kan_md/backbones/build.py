"""One door to all backbones: check what the user asks for, build it, leave no trace."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

import torch
from hydra.errors import InstantiationException
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.backbones.readout import ReadoutConfig, parse_readout, without_idle_keys
from kan_md.backbones.sites import FunctionSlot
from kan_md.backbones.targets import check_targets
from kan_md.contract import DTYPES, Kind
from kan_md.errors import user_error

_OWN_ARGUMENTS = {"seed", "model_dtype", "type_names", "r_max", "readout"}


@dataclass(frozen=True)
class Adapter:
    """What kan-md knows of one backbone.

    Attributes:
        module: name of the module of this package that adapts it.
        builder: name of the ``@model_builder`` function in there.
        upstream: where upstream's builders with their arguments are, as ``module:function``.
        internal: arguments of these that are not the user's to set.
        replaced: beginnings of the names of arguments that shape what a readout stands in for, with
            its site.
        of_mlp: arguments that only a readout of kind ``mlp`` has.
        kind: whether the models are potentials or predict tensors.
    """

    module: str
    builder: str
    upstream: tuple[str, ...]
    internal: frozenset[str] = frozenset({"do_derivatives", "kwargs"})
    replaced: Mapping[str, str] = field(default_factory=dict)
    of_mlp: frozenset[str] = frozenset()
    kind: Kind = "potential"

    def load(self) -> ModuleType:
        """Import the adapting module."""
        return import_module(f"kan_md.backbones.{self.module}")

    def hyperparameters(self) -> dict[str, inspect.Parameter]:
        """Arguments that a user may set, by name, besides those of :func:`build_model`."""
        found: dict[str, inspect.Parameter] = {}
        for function in (getattr(self.load(), self.builder), *map(_import, self.upstream)):
            for name, parameter in inspect.signature(function).parameters.items():
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    found.setdefault(name, parameter)
        hidden = self.internal | _OWN_ARGUMENTS
        return {name: found[name] for name in sorted(found.keys() - hidden)}


ADAPTERS: dict[str, Adapter] = {
    "allegro": Adapter(
        module="allegro",
        builder="AllegroKANModel",
        upstream=(
            "allegro.model:AllegroModel",
            "allegro.model.allegro_models:FullAllegroModel",
        ),
        internal=Adapter.internal | {"irreps_edge_sh", "tensor_track_allowed_irreps"},
        replaced={
            "readout_mlp_": "output",
            "scalar_embed_mlp_": "two_body",
            "allegro_mlp_": "latent",
        },
    ),
    "nequip": Adapter(
        module="nequip",
        builder="NequIPKANModel",
        upstream=(
            "nequip.model:NequIPGNNModel",
            "nequip.model.nequip_models:FullNequIPGNNModel",
        ),
        internal=Adapter.internal
        | {"irreps_edge_sh", "feature_irreps_hidden", "categorical_graph_field_embed"},
        replaced={"readout_mlp_": "output"},
    ),
    "mace": Adapter(
        module="mace",
        builder="MACEKANModel",
        upstream=(),
        of_mlp=frozenset({"MLP_irreps", "gate", "readout_cls"}),
    ),
    "etgnn": Adapter(module="etgnn", builder="ETGNNKANModel", upstream=(), kind="tensor"),
}


def _import(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def adapter_of(backbone: str) -> Adapter:
    """Look a backbone up.

    Raises:
        KanMdError: there is none of that name.
    """
    if backbone not in ADAPTERS:
        raise user_error(
            "unknown backbone",
            found=repr(backbone),
            allowed=", ".join(ADAPTERS),
            remedy="set model.backbone",
        )
    return ADAPTERS[backbone]


def build_model(
    backbone: str,
    *,
    seed: int,
    model_dtype: str,
    type_names: Sequence[str],
    r_max: float,
    readout: ReadoutConfig | Mapping | str | None = None,
    **hyperparameters: object,
) -> GraphModel:
    """Build a potential with fresh weights.

    Random streams, default dtype and e3nn's defaults are afterwards as they were before. The result
    can be scripted with ``e3nn.util.jit.script``.

    Args:
        backbone: ``allegro``, ``nequip`` or ``mace``.
        seed: decides every initial weight.
        model_dtype: ``float32`` or ``float64``.
        type_names: one name per atom type, in the order of the type index.
        r_max: cutoff, Å.
        readout: the output block; a configuration, a mapping, a kind, or ``None`` for the default.
        **hyperparameters: upstream's own, see :meth:`Adapter.hyperparameters`, or the names that
            :func:`upstream_names` knows for them. Reference energies are
            ``per_type_energy_shifts``; scales and shifts default to one and zero.

    Returns:
        A nequip ``GraphModel``: AtomicDataDict in; ``total_energy`` (eV), ``atomic_energy``,
        ``forces`` (eV/Å), ``virial`` (eV), ``stress`` (eV/Å³) or, from edge vectors alone,
        ``edge_forces`` out.

    Raises:
        KanMdError: an argument is unknown, missing or out of range.
    """
    adapter = adapter_of(backbone)
    readout = parse_readout(readout)
    type_names = check_type_names(type_names)
    hyperparameters = upstream_names(backbone, hyperparameters)
    _check_arguments(backbone, adapter, hyperparameters)
    check_targets(hyperparameters)
    if model_dtype not in DTYPES:
        raise user_error(
            "unknown model dtype",
            found=repr(model_dtype),
            allowed=", ".join(DTYPES),
            remedy="set model.dtype",
        )
    if not isinstance(r_max, (int, float)) or not 0.0 < r_max < float("inf"):
        raise user_error("r_max must be > 0 Å", found=r_max, allowed=None, remedy="set model.r_max")
    # Always present, so that every potential has a place for reference energies in its state.
    for name, neutral in (("per_type_energy_scales", 1.0), ("per_type_energy_shifts", 0.0)):
        if name in adapter.hyperparameters() and hyperparameters.get(name) is None:
            hyperparameters[name] = dict.fromkeys(type_names, neutral)
    builder = getattr(adapter.load(), adapter.builder)
    with nequip_settings():
        try:
            return builder(
                seed=seed,
                model_dtype=model_dtype,
                type_names=type_names,
                r_max=float(r_max),
                readout=readout,
                **hyperparameters,
            )
        except (AssertionError, TypeError, ValueError, InstantiationException) as error:
            # Upstream checks its hyperparameters with these; its words are the best there are.
            raise user_error(
                f"{backbone} refuses its hyperparameters",
                found=" ".join(str(error).split()) or type(error).__name__,
                allowed=None,
                remedy="change the model section",
            ) from error


def upstream_names(backbone: str, hyperparameters: Mapping[str, object]) -> dict[str, object]:
    """Give hyperparameters the names of upstream's builder.

    ``num_layers``, ``l_max``, ``num_scalar_features`` and ``num_tensor_features`` are understood by
    every potential. Names that are nobody's stay as they are.

    Raises:
        KanMdError: one is given by both of its names, or the backbone cannot have such features.
    """
    translate = getattr(adapter_of(backbone).load(), "upstream_names", dict)
    return translate(hyperparameters)


def idle_hyperparameters(
    backbone: str, readout: ReadoutConfig, hyperparameters: Iterable[str]
) -> list[str]:
    """Which of the given hyperparameters shape a block that the readout stands in for."""
    adapter = adapter_of(backbone)
    replaced = tuple(prefix for prefix, site in adapter.replaced.items() if readout.covers(site))
    return [
        name
        for name in hyperparameters
        if name.startswith(replaced) or (name in adapter.of_mlp and readout.kind != "mlp")
    ]


def stored_arguments(
    backbone: str, arguments: Mapping[str, object], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, object], str | None]:
    """Read the arguments in a model file as what was built from them when it was written.

    Args:
        backbone: architecture.
        arguments: of :func:`build_model`.
        state: the weights, by name.

    Returns:
        Arguments that build the same today, and what is to be said of them, if anything.
    """
    readout = arguments.get("readout")
    if readout is None or isinstance(readout, str):
        readout = {"kind": readout} if readout else {}
    arguments = {**arguments, "readout": without_idle_keys(readout)}
    read = getattr(adapter_of(backbone).load(), "stored_arguments", None)
    return (arguments, None) if read is None else read(arguments, state)


def discontinuity(backbone: str, arguments: Mapping[str, object]) -> str | None:
    """Why a model with these arguments has energies that jump at the cutoff; None where not."""
    find = getattr(adapter_of(backbone).load(), "discontinuity", None)
    return None if find is None else find(arguments)


def check_type_names(type_names: Sequence[str]) -> list[str]:
    """Check the names of the atom types.

    Raises:
        KanMdError: there are none, one is not alphanumeric, or one occurs twice.
    """
    names = [type_names] if isinstance(type_names, str) else list(type_names)
    remedy = "set model.type_names, e.g. [H, O]"
    if not names:
        raise user_error("type_names must not be empty", found=names, allowed=None, remedy=remedy)
    if any(not isinstance(name, str) or not name.isalnum() for name in names):
        raise user_error(
            "type_names must be alphanumeric", found=names, allowed=None, remedy=remedy
        )
    if len(set(names)) < len(names):
        raise user_error(
            "type_names must not repeat a name", found=names, allowed=None, remedy=remedy
        )
    return names


def _check_arguments(backbone: str, adapter: Adapter, hyperparameters: Mapping) -> None:
    known = adapter.hyperparameters()
    for name in hyperparameters:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *_OWN_ARGUMENTS], n=1)
            raise user_error(
                f"unknown hyperparameter of {backbone}",
                found=repr(name),
                allowed=", ".join(known),
                remedy=f"did you mean {near[0]!r}?" if near else "remove it",
            )
        _check_value(backbone, known[name], hyperparameters[name])
    if hyperparameters.get("avg_num_neighbors") is None:
        raise user_error(
            f"avg_num_neighbors of {backbone} must be given",
            found=None,
            allowed="a number > 0, or one per type",
            remedy="count the edges per atom of the training data",
        )


def _check_value(backbone: str, parameter: inspect.Parameter, value: object) -> None:
    """Hold switches and whole numbers against their kind; upstream fails on them in any way."""
    name, kind = parameter.name, parameter.annotation
    if kind in (bool, "bool"):
        wanted, good = "true or false", isinstance(value, bool)
    # One of upstream's annotations says int where a name is wanted, as its default shows.
    elif kind in (int, "int") and not isinstance(parameter.default, str):
        least = 1 if name.startswith("num_") or name.endswith("_width") else 0
        wanted = f"a whole number >= {least}"
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    else:
        return
    if not good:
        raise user_error(
            f"{name} of {backbone}",
            found=repr(value),
            allowed=wanted,
            remedy=f"change model.{name}",
        )


def sites_of(model: torch.nn.Module, backbone: str) -> dict[str, list[FunctionSlot]]:
    """The places of ``model`` where readouts stand or may stand, by site."""
    return adapter_of(backbone).load().sites(model)


def num_layers_of(model: torch.nn.Module, backbone: str) -> int:
    """Hops of message passing that an atom's energy depends on; 1 is strictly local."""
    return adapter_of(backbone).load().num_layers(model)


def functions_are_on_edges(backbone: str) -> bool:
    """Whether networks act on edges, given what depends on the edges of one centre alone."""
    return getattr(adapter_of(backbone).load(), "FUNCTIONS_ON_EDGES", False)
