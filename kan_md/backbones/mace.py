"""MACE with KAN readouts: mace-torch's own blocks in a nequip-framework model.

Batatia et al., NeurIPS 2022. mace-torch's ``ScaleShiftMACE`` is built with its own constructor,
which decides all irreps and paths, and its blocks are then wired up on nequip's data dictionary. So
MACE trains, deploys and runs by the same road as the other backbones, with mace-torch's numbers.

The readouts are, by ``readout.kind``, at the site ``output``:

===============  =========================================  ====================================
kind             last layer, also where it is the only one  other layers
===============  =========================================  ====================================
kan              KAN instead of the MLP                     upstream's linear map + a KAN beside
mlp              upstream's MLP of width ``MLP_irreps``,    upstream's linear map
                 ours where ``readout.hidden`` has several
linear           a linear map, or one of each element       upstream's linear map
finnis_sinclair  a line and a square root of each scalar    upstream's linear map
===============  =========================================  ====================================

At the site ``radial`` the function stands for the network of the distance that gives each path of
the convolution its weight. Where only that is asked for, the readouts are upstream's.

Upstream's own model of one layer has a linear readout, and so had kan-md's with ``mlp`` before:
files of either are ``linear``, see :func:`kan_md.backbones.mace_arguments.stored_arguments`.

An isolated atom: with a first interaction that has no self-connection (the default,
``RealAgnosticInteractionBlock``, as in mace_run_train's ``MACE``), all features of an atom without
neighbours are zero and its energy is exactly the reference energy. The ``Residual`` first
interactions of mace_run_train's ``ScaleShiftMACE`` let the embedding of the element through: there
an isolated atom has an energy of its own, in upstream's model as in ours.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType

import torch
from ase.data import atomic_numbers as numbers_by_symbol
from e3nn.o3 import Irreps
from nequip.data import AtomicDataDict
from nequip.model import model_builder
from nequip.nn import AtomwiseReduce, ForceStressOutput, PerTypeScaleShift, SequentialGraphNetwork

from kan_md.backbones.mace_arguments import stored_arguments as stored_arguments
from kan_md.backbones.mace_arguments import upstream_names as upstream_names
from kan_md.backbones.mace_blocks import ZBLRepulsion, make_differentiable, make_scriptable
from kan_md.backbones.mace_modules import (
    MACEEdgeEmbedding,
    MACELayer,
    MACENodeEmbedding,
    MACEPairRepulsion,
    MACEReadout,
    ScalarFunction,
    scalar_range,
)
from kan_md.backbones.readout import ReadoutConfig, count_parameters, make_readout, parse_readout
from kan_md.backbones.sites import FunctionSlot, check_sites, readout_generator, widths_of
from kan_md.errors import user_error

SITES = ("output", "radial")
_SEE_ATOMS = (
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)
"""Interactions whose radial networks see more than functions that vanish at the cutoff."""

WEIGHTS_ONLY_OVERRIDE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def import_mace() -> ModuleType:
    """Import ``mace.modules`` without what the import does besides.

    It sets an environment variable that makes torch unpickle any file, and prints what is not
    installed.

    Raises:
        KanMdError: mace-torch is not installed.
    """
    before = os.environ.get(WEIGHTS_ONLY_OVERRIDE)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import mace.modules
    except ImportError as error:
        raise user_error(
            "the mace backbone needs mace-torch",
            found=str(error),
            allowed=None,
            remedy="pip install kan-md[mace] && pip install --no-deps mace-torch==0.3.16",
        ) from error
    finally:
        if before is None:
            os.environ.pop(WEIGHTS_ONLY_OVERRIDE, None)
        else:
            os.environ[WEIGHTS_ONLY_OVERRIDE] = before
    return mace.modules


@model_builder
def MACEKANModel(  # noqa: N802 - upstream names its builders like classes
    *,
    type_names: Sequence[str],
    r_max: float,
    readout: ReadoutConfig | Mapping | None = None,
    avg_num_neighbors: float,
    hidden_irreps: str = "128x0e + 128x1o",
    MLP_irreps: str | None = None,
    num_interactions: int = 2,
    max_ell: int = 3,
    correlation: int | Sequence[int] = 3,
    num_bessel: int = 8,
    num_polynomial_cutoff: int = 5,
    radial_MLP: Sequence[int] = (64, 64, 64),
    radial_type: str = "bessel",
    distance_transform: str = "None",
    interaction_cls: str = "RealAgnosticResidualInteractionBlock",
    interaction_cls_first: str = "RealAgnosticInteractionBlock",
    readout_cls: str = "NonLinearReadoutBlock",
    gate: str = "silu",
    pair_repulsion: bool = False,
    apply_cutoff: bool = True,
    edge_irreps: str | None = None,
    use_edge_irreps_first: bool = False,
    use_reduced_cg: bool = True,
    use_so3: bool = False,
    use_agnostic_product: bool = False,
    use_last_readout_only: bool = False,
    keep_last_layer_irreps: bool = False,
    atomic_numbers: Mapping[str, int] | None = None,
    per_type_energy_scales: float | Mapping[str, float] | None = None,
    per_type_energy_shifts: float | Mapping[str, float] | None = None,
    per_type_energy_scales_trainable: bool = False,
    per_type_energy_shifts_trainable: bool = False,
    do_derivatives: bool = True,
) -> torch.nn.Module:
    """MACE with KAN readouts; a target for ``nequip-train`` configurations.

    Names and meanings are those of :class:`mace.modules.MACE`, with classes, gate and irreps given
    by name, and of nequip's builders where these have the same (``type_names``, ``per_type_*``:
    E_i = scale · readouts + shift, the shift being the reference energy of the type).

    Args:
        type_names: names of the atom types.
        r_max: cutoff, Å.
        readout: see :class:`kan_md.backbones.readout.ReadoutConfig`.
        avg_num_neighbors: what messages are divided by.
        hidden_irreps: features of an atom between layers.
        MLP_irreps: width of upstream's MLP readout, e.g. ``16x0e``. Where ``None``, an ``mlp``
            readout is as wide as ``readout.hidden``, or as brings it closest to the parameter
            count of the ``kan`` readouts of the same settings. With several widths the MLP is that
            of the other backbones, which upstream does not have.
        num_interactions: number of layers.
        max_ell: highest order of the spherical harmonics.
        correlation: body order minus one, of all layers or one each.
        num_bessel: number of radial functions.
        num_polynomial_cutoff: exponent of the cutoff.
        radial_MLP: widths of the radial network.
        radial_type: ``bessel``, ``gaussian`` or ``chebyshev``.
        distance_transform: ``None``, ``Agnesi`` or ``Soft``, as a string.
        interaction_cls: class of the interactions after the first.
        interaction_cls_first: class of the first interaction.
        readout_cls: class of the last readout of an ``mlp``: ``NonLinearReadoutBlock`` or
            ``NonLinearBiasReadoutBlock``.
        gate: nonlinearity of the MLP readout.
        pair_repulsion: add the Ziegler-Biersack-Littmark repulsion.
        apply_cutoff: cut off the radial functions rather than the convolution's weights.
        edge_irreps: features that take part in the convolution, all where ``None``.
        use_edge_irreps_first: cut them down in the first layer, too.
        use_reduced_cg: use the reduced Clebsch-Gordan basis.
        use_so3: ignore parity.
        use_agnostic_product: product weights that do not depend on the element.
        use_last_readout_only: no readouts before the last layer.
        keep_last_layer_irreps: keep all irreps in the last layer.
        atomic_numbers: of types that are not named after elements.
        per_type_energy_scales: factor of the readouts' sum.
        per_type_energy_shifts: reference energy, eV.
        per_type_energy_scales_trainable: whether the factor is trained.
        per_type_energy_shifts_trainable: whether the reference energy is trained.
        do_derivatives: whether forces and stress are computed.

    Returns:
        ``ForceStressOutput`` around the energy model.
    """
    modules = import_mace()
    readout = parse_readout(readout)
    check_sites(readout, SITES, backbone="mace")
    _check_radial(readout)
    radial = readout if readout.covers("radial") else None
    if not readout.covers("output"):
        readout = _upstream_readout(num_interactions, MLP_irreps)
    type_names = list(type_names)
    numbers = [
        (atomic_numbers or {}).get(name, numbers_by_symbol.get(name, 0)) for name in type_names
    ]
    hidden = _hidden_irreps(hidden_irreps, num_interactions)
    if _is_deep(readout):
        _check_given_to_readout(gate=gate, readout_cls=readout_cls)
    make_mlp = functools.partial(
        _by_name(_mlp_classes(modules), readout_cls, "readout_cls"),
        MLP_irreps=_mlp_irreps(MLP_irreps, hidden, readout, num_interactions),
        gate=_by_name(modules.gate_dict, _gate(gate, readout), "gate"),
    )
    upstream = modules.ScaleShiftMACE(
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
        r_max=float(r_max),
        num_bessel=num_bessel,
        num_polynomial_cutoff=num_polynomial_cutoff,
        max_ell=max_ell,
        interaction_cls=_by_name(modules.interaction_classes, interaction_cls, "interaction_cls"),
        interaction_cls_first=_by_name(
            modules.interaction_classes, interaction_cls_first, "interaction_cls_first"
        ),
        num_interactions=num_interactions,
        num_elements=len(type_names),
        hidden_irreps=hidden,
        MLP_irreps=make_mlp.keywords["MLP_irreps"],
        atomic_energies=torch.zeros(len(type_names)).numpy(),
        avg_num_neighbors=float(avg_num_neighbors),
        atomic_numbers=numbers,
        correlation=correlation,
        gate=make_mlp.keywords["gate"],
        pair_repulsion=pair_repulsion,
        apply_cutoff=apply_cutoff,
        use_reduced_cg=use_reduced_cg,
        use_so3=use_so3,
        use_agnostic_product=use_agnostic_product,
        use_last_readout_only=use_last_readout_only,
        distance_transform=distance_transform,
        edge_irreps=None if edge_irreps is None else Irreps(edge_irreps),
        use_edge_irreps_first=use_edge_irreps_first,
        radial_MLP=list(radial_MLP),
        radial_type=radial_type,
        readout_cls=make_mlp.func,
        keep_last_layer_irreps=keep_last_layer_irreps,
    )
    makers = {"mlp": make_mlp, "linear": modules.LinearReadoutBlock}
    make_last = None if _is_ours(readout) else makers[readout.kind]
    network = _energy_modules(upstream, readout, make_last=make_last)
    if radial is not None:
        _put_radial(network, radial)
    network["per_type_energy_scale_shift"] = PerTypeScaleShift(
        type_names=type_names,
        field=AtomicDataDict.PER_ATOM_ENERGY_KEY,
        scales=_plain(per_type_energy_scales),
        shifts=_plain(per_type_energy_shifts),
        scales_trainable=per_type_energy_scales_trainable,
        shifts_trainable=per_type_energy_shifts_trainable,
        irreps_in=_last(network).irreps_out,
    )
    network["total_energy_sum"] = AtomwiseReduce(
        field=AtomicDataDict.PER_ATOM_ENERGY_KEY,
        out_field=AtomicDataDict.TOTAL_ENERGY_KEY,
        irreps_in=_last(network).irreps_out,
    )
    return ForceStressOutput(SequentialGraphNetwork(network), do_derivatives)


def _energy_modules(
    upstream: torch.nn.Module, readout: ReadoutConfig, *, make_last: Callable | None
) -> dict[str, torch.nn.Module]:
    """Wire up the blocks of a ``mace.modules.MACE`` until the atomic energy.

    ``make_last`` makes the last layer's block from its irreps where upstream has another one; None
    where no block of upstream's is wanted there.
    """
    num_types, num_layers = len(upstream.atomic_numbers), len(upstream.interactions)
    network: dict[str, torch.nn.Module] = {
        "node_embedding": MACENodeEmbedding(
            upstream.node_embedding,
            num_types=num_types,
            num_features=upstream.node_embedding.linear.irreps_out.dim,
        )
    }
    make_differentiable(upstream.radial_embedding)
    network["edge_embedding"] = MACEEdgeEmbedding(
        upstream.spherical_harmonics,
        upstream.radial_embedding,
        atomic_numbers=upstream.atomic_numbers,
        apply_cutoff=upstream.apply_cutoff,
        irreps_in=_last(network).irreps_out,
    )
    generator = readout_generator()
    # With ``use_last_readout_only`` upstream leaves the only layer without any.
    first_readout = min(num_layers - len(upstream.readouts), num_layers - 1)
    for index in range(num_layers):
        network[f"layer{index}"] = MACELayer(
            make_scriptable(upstream.interactions[index]),
            upstream.products[index],
            irreps_in=_last(network).irreps_out,
        )
        if index < first_readout:
            continue
        features = _last(network).irreps_out[AtomicDataDict.NODE_FEATURES_KEY]
        block = beside = None
        is_last = index == num_layers - 1
        if not is_last or _has_mlp(upstream, readout):
            block = upstream.readouts[index - first_readout]
        elif make_last is not None:
            block = make_last(features)
        if readout.kind == "kan" or (is_last and _is_ours(readout)):
            scalars = scalar_range(features)[1]
            function = make_readout(scalars, 1, readout, num_types=num_types, generator=generator)
            beside = ScalarFunction(function, irreps_in=features, per_type=readout.per_type)
        network[f"readout{index}"] = MACEReadout(block, beside, irreps_in=_last(network).irreps_out)
    if hasattr(upstream, "pair_repulsion_fn"):
        network["pair_repulsion"] = MACEPairRepulsion(
            ZBLRepulsion(upstream.pair_repulsion_fn),
            atomic_numbers=upstream.atomic_numbers,
            irreps_in=_last(network).irreps_out,
        )
    return network


def _upstream_readout(num_interactions: int, MLP_irreps: str | None) -> ReadoutConfig:
    """What upstream builds by itself: a linear map for one layer, an MLP of 16 for several."""
    if num_interactions == 1:
        return ReadoutConfig(kind="linear")
    return ReadoutConfig(kind="mlp", hidden=() if MLP_irreps else (16,))


def _check_radial(readout: ReadoutConfig) -> None:
    """Refuse what radial networks cannot be.

    Raises:
        KanMdError: the readout asks for it.
    """
    if not readout.covers("radial"):
        return
    if readout.kind == "finnis_sinclair":
        raise user_error(
            "readout.kind at the site radial of mace",
            found=readout.kind,
            allowed="kan, mlp, linear",
            remedy="set readout.sites: output",
        )
    if readout.per_type and not readout.covers("output"):
        raise user_error(
            "readout.per_type has no effect with readout.sites radial",
            found="per_type true",
            allowed=None,
            remedy="leave it out, or add the site output",
        )


def _put_radial(network: Mapping[str, torch.nn.Module], readout: ReadoutConfig) -> None:
    """Exchange every layer's network of the distance.

    Raises:
        KanMdError: a layer has none that knows the distance alone.
    """
    generator = readout_generator()
    shared = readout.model_copy(update={"per_type": False})
    for slot in _radial_slots(network.values()):
        if slot is None:
            raise user_error(
                "site radial of mace",
                found="an interaction whose network reads more than the distance",
                allowed="interactions with conv_tp_weights of the radial functions",
                remedy="set model.interaction_cls, or readout.sites: output",
            )
        slot.put(make_readout(*slot.widths, shared, generator=generator))


def _radial_slots(modules: Iterable[torch.nn.Module]) -> list[FunctionSlot | None]:
    """The network of the distance of each layer; None for one that reads more or is another."""
    layers = [module for module in modules if isinstance(module, MACELayer)]
    (edges,) = (module for module in modules if isinstance(module, MACEEdgeEmbedding))
    count = edges.radial_embedding.out_dim
    slots: list[FunctionSlot | None] = []
    for number, layer in enumerate(layers, start=1):
        slot = FunctionSlot(layer.interaction, "conv_tp_weights", f"layer {number}")
        widths = widths_of(slot.function)
        slots.append(slot if widths is not None and widths[0] == count else None)
    return slots


def _has_mlp(upstream: torch.nn.Module, readout: ReadoutConfig) -> bool:
    """Whether the last readout is wanted as upstream makes it: an MLP behind several layers."""
    return readout.kind == "mlp" and len(upstream.interactions) > 1 and not _is_deep(readout)


def _is_ours(readout: ReadoutConfig) -> bool:
    """Whether upstream has no block like the last readout that is wanted."""
    return readout.kind in ("kan", "finnis_sinclair") or readout.per_type or _is_deep(readout)


def _is_deep(readout: ReadoutConfig) -> bool:
    """Whether an MLP is wanted that upstream does not have: of several hidden layers."""
    return readout.kind == "mlp" and len(readout.hidden) > 1


def _check_given_to_readout(*, gate: str, readout_cls: str) -> None:
    """Refuse what only upstream's MLP looks at, beside an MLP of several hidden layers.

    Raises:
        KanMdError: it says something.
    """
    usual = {"gate": (gate, "silu"), "readout_cls": (readout_cls, "NonLinearReadoutBlock")}
    for name, (found, default) in usual.items():
        if found != default:
            raise user_error(
                f"model.{name} beside several widths in readout.hidden",
                found=found,
                allowed=f"{default}: upstream's MLP has one hidden layer",
                remedy="set readout.nonlinearity, or give one width",
            )


def _mlp_classes(modules: ModuleType) -> dict[str, type]:
    """Upstream's readouts that turn scalars into an energy by way of a nonlinearity."""
    names = ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
    return {name: modules.readout_classes[name] for name in names}


def _hidden_irreps(given: str, num_interactions: int) -> Irreps:
    """Features between layers; upstream's contraction gives all of them the same multiplicity.

    Raises:
        KanMdError: they have not.
    """
    hidden = Irreps(given)
    if num_interactions > 1 and len({mul for mul, _ in hidden}) > 1:
        raise user_error(
            "hidden_irreps of mace",
            found=str(hidden),
            allowed="one multiplicity, e.g. 64x0e + 64x1o",
            remedy="set model.hidden_irreps",
        )
    return hidden


def _mlp_irreps(
    given: str | None, hidden: Irreps, readout: ReadoutConfig, num_interactions: int
) -> Irreps:
    """Width of upstream's MLP readout: as given, or matched to the KAN readouts' parameters."""
    if given is not None and readout.hidden and readout.kind == "mlp":
        raise user_error(
            "model.MLP_irreps and readout.hidden both say how wide the mlp of mace is",
            found=f"{given} and {list(readout.hidden)}",
            allowed="one of them",
            remedy="leave one out",
        )
    if given is not None:
        return Irreps(given)
    if readout.hidden and readout.kind == "mlp":
        return Irreps([(readout.hidden[0], (0, 1))])
    scalars = scalar_range(hidden)[1]
    as_kan = readout.model_copy(update={"kind": "kan"})
    kan = make_readout(scalars, 1, as_kan, generator=torch.Generator())
    width = round(num_interactions * count_parameters(kan) / (scalars + 1))
    return Irreps([(max(1, width), (0, 1))])


def _gate(given: str, readout: ReadoutConfig) -> str:
    """Nonlinearity of upstream's MLP readout, which may be said by either name."""
    if _is_deep(readout):
        return "silu"  # of a block that is not used
    if readout.nonlinearity != "silu" and given not in ("silu", readout.nonlinearity):
        raise user_error(
            "model.gate and readout.nonlinearity both say what is in the mlp of mace",
            found=f"{given} and {readout.nonlinearity}",
            allowed="one of them",
            remedy="leave one out",
        )
    return given if readout.nonlinearity == "silu" else readout.nonlinearity


def _last(network: Mapping[str, torch.nn.Module]) -> torch.nn.Module:
    return list(network.values())[-1]


def _by_name(choices: Mapping[str, object], name: str, argument: str) -> object:
    if name not in choices:
        raise user_error(
            f"{argument} of mace",
            found=repr(name),
            allowed=", ".join(choices),
            remedy=f"set model.{argument}",
        )
    return choices[name]


def _plain(values: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    """Hydra's mappings as plain ones."""
    return dict(values) if isinstance(values, Mapping) else values


def discontinuity(arguments: Mapping[str, object]) -> str | None:
    """Why energies jump where an atom crosses the cutoff; None where they do not.

    A radial network with biases, or one that sees features of atoms, gives weights beyond the
    cutoff, too. Upstream cuts off what goes into the network unless ``apply_cutoff`` is false.

    Args:
        arguments: of :func:`MACEKANModel`.
    """
    classes = [arguments.get("interaction_cls_first")]
    if arguments.get("num_interactions", 2) > 1:
        classes.append(arguments.get("interaction_cls"))
    found = [name for name in classes if name in _SEE_ATOMS]
    if not found or not arguments.get("apply_cutoff", True):
        return None
    return (
        f"energies jump where an atom crosses r_max, as upstream's do: {found[0]} has weights "
        "beyond it; model.apply_cutoff: false makes them smooth"
    )


def upstream_readouts(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Layers and blocks of the readouts that are upstream's, linear or MLP."""
    readouts = [m for m in model.modules() if isinstance(m, MACEReadout)]
    first = num_layers(model) - len(readouts) + 1
    return [
        (f"layer {number}", m.block)
        for number, m in enumerate(readouts, start=first)
        if m.block is not None
    ]


def sites(model: torch.nn.Module) -> dict[str, list[FunctionSlot]]:
    """Slots of a MACE model that hold a function of scalars, by site."""
    readouts = [m for m in model.modules() if isinstance(m, MACEReadout)]
    first = num_layers(model) - len(readouts) + 1
    return {
        "output": [
            FunctionSlot(m.beside, "function", f"layer {number}")
            for number, m in enumerate(readouts, start=first)
            if m.beside is not None
        ],
        "radial": [slot for slot in _radial_slots(list(model.modules())) if slot is not None],
    }


def num_layers(model: torch.nn.Module) -> int:
    """Hops that an atom's energy depends on: one per interaction."""
    return sum(isinstance(module, MACELayer) for module in model.modules())
