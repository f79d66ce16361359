"""The output block: what it may be, and how it is made.

A readout turns ``in_features`` scalars of an edge or an atom into ``out_features``. Features vanish
smoothly where an edge reaches the cutoff, so every readout here is bias-free and gives f(0) = 0:
otherwise the energy would jump whenever an edge enters or leaves the cutoff sphere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Literal, get_args

import torch
from nequip.nn.mlp import ScalarLinearLayer
from nequip.nn.nonlinearities import ShiftedSoftplus
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kan_md.errors import user_error
from kan_md.kan.controls import FinnisSinclair, LinearPerType
from kan_md.kan.network import KAN
from kan_md.kan.per_type import PerTypeKAN
from kan_md.validation import readable

Kind = Literal["kan", "mlp", "linear", "finnis_sinclair"]
Basis = Literal["gaussian", "bspline", "fourier"]
Nonlinearity = Literal["silu", "mish", "gelu", "ssp", "tanh"]
Site = Literal["output", "two_body", "latent", "radial", "heads", "edge_up", "node_up", "all"]

SITES: tuple[str, ...] = get_args(Site)
_SIZE_KEYS = {"num_basis", "projection", "base", "input_gain"}
_KAN_KEYS = {"basis", "order", "grid_range", "per_type"} | _SIZE_KEYS
_OF_CONTROLS = (_KAN_KEYS | {"hidden", "nonlinearity"}) - {"per_type"}
_NONLINEARITIES: dict[str, type[torch.nn.Module]] = {
    "silu": torch.nn.SiLU,
    "mish": torch.nn.Mish,
    "gelu": torch.nn.GELU,
    "ssp": ShiftedSoftplus,
    "tanh": torch.nn.Tanh,
}
"""Upstream's functions with f(0) = 0, by upstream's names."""


class ReadoutConfig(BaseModel):
    """Choice of the output block.

    A key without effect on the kind that is chosen is refused unless it has its default value, see
    :func:`idle_keys`.

    Attributes:
        kind: ``kan``, or one of the controls ``mlp``, ``linear`` and, for MACE,
            ``finnis_sinclair``: a line and a square root of every scalar, which a KAN replaces by
            functions that are learned, see :class:`kan_md.kan.controls.FinnisSinclair`.
        basis: basis of the KAN's univariate functions.
        sites: which blocks are replaced; one name or several. Every backbone has ``output``;
            Allegro also ``two_body`` and ``latent``, MACE ``radial``, ETGNN ``heads``, ``edge_up``,
            ``node_up``.
        hidden: widths between input and output. Empty: a KAN goes straight to the output; an
            ``mlp`` gets one hidden layer, as wide as brings it closest to the parameter count of
            the KAN that ``num_basis``, ``projection``, ``base`` and ``input_gain`` describe.
        num_basis: number of basis functions per univariate function.
        order: polynomial order of B-splines.
        grid_range: interval that the basis covers.
        projection: number of learned linear combinations that a KAN takes in the place of its
            inputs; None: every input itself. A deployed Allegro with few of them costs no more
            than one with an MLP, because the linear map disappears in the layer before it.
        base: function added beside the basis.
        input_gain: whether each input has a learned factor in front of the basis.
        per_type: whether each type of atoms has functions of its own, where a readout acts on
            atoms: MACE. The inputs are the same ones for all. Also of ``linear``, the control.
        nonlinearity: between the layers of an ``mlp``, by upstream's names; ``ssp`` is the shifted
            softplus.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "kan"
    basis: Basis = "gaussian"
    sites: tuple[Site, ...] = ("output",)
    hidden: tuple[int, ...] = ()
    num_basis: int = Field(8, ge=2)
    order: int = Field(3, ge=1, le=5)
    grid_range: tuple[float, float] = (-2.0, 2.0)
    projection: int | None = Field(None, ge=1)
    base: Literal["silu", "none"] = "silu"
    input_gain: Literal["learned", "none"] = "learned"
    per_type: bool = False
    nonlinearity: Nonlinearity = "silu"

    @model_validator(mode="before")
    @classmethod
    def _kind_alone_or_hydras(cls, value: object) -> object:
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if isinstance(value, str):
            return {"kind": value}
        if value is None or isinstance(value, Mapping):
            return dict(value or {})
        return value

    @field_validator("sites", mode="before")
    @classmethod
    def _one_site_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("sites")
    @classmethod
    def _one_site_at_least(cls, value: tuple[Site, ...]) -> tuple[Site, ...]:
        if not value:
            raise ValueError(f"at least one site of {', '.join(SITES)} is needed")
        return value

    @field_validator("hidden")
    @classmethod
    def _hidden_widths_are_positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in value):
            raise ValueError("hidden widths must be >= 1")
        return value

    @model_validator(mode="after")
    def _grid_is_an_interval_that_holds_the_basis(self) -> ReadoutConfig:
        low, high = self.grid_range
        if not low < 0.0 < high:
            raise ValueError("grid_range must be an interval with 0 inside")
        if self.basis == "bspline" and self.num_basis <= self.order:
            raise ValueError("a bspline basis needs num_basis > order")
        return self

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> ReadoutConfig:
        idle = idle_keys(self)
        if idle:
            kind, remedy = _why_idle(self, idle)
            names = " and ".join(f"readout.{name}" for name in idle)
            verb = "has" if len(idle) == 1 else "have"
            raise user_error(
                f"{names} {verb} no effect with {kind}",
                found=", ".join(f"{name} {_plain(getattr(self, name))}" for name in idle),
                allowed=None,
                remedy=f"leave {'it' if len(idle) == 1 else 'them'} out{remedy}",
            )
        return self

    def covers(self, site: str) -> bool:
        """Whether ``site`` is to be replaced."""
        return site in self.sites or "all" in self.sites


def idle_keys(config: ReadoutConfig) -> tuple[str, ...]:
    """Keys that say something else than by default, though they change nothing.

    ``linear`` and ``finnis_sinclair`` have no shape to choose. An ``mlp`` has its hidden widths, or
    the size of a KAN that it is to match, which basis, order and grid leave as it is; the
    nonlinearity is its own. The order is that of B-splines.
    """
    idle, fields = _idle_names(config), ReadoutConfig.model_fields
    return tuple(
        name for name in fields if name in idle and getattr(config, name) != fields[name].default
    )


def _idle_names(config: ReadoutConfig) -> set[str]:
    return {
        "linear": _OF_CONTROLS,
        "finnis_sinclair": _OF_CONTROLS,
        "mlp": _KAN_KEYS if config.hidden else _KAN_KEYS - _SIZE_KEYS,
        "kan": {"nonlinearity"} if config.basis == "bspline" else {"nonlinearity", "order"},
    }[config.kind]


def keys_in_effect(config: ReadoutConfig) -> dict[str, object]:
    """Keys and values that decide what is built, as plain values."""
    idle = _idle_names(config)
    return {k: v for k, v in config.model_dump(mode="json").items() if k not in idle}


def without_idle_keys(readout: Mapping[str, object]) -> dict[str, object]:
    """Read the readout of a file written before idle keys were refused: what was built."""
    config = ReadoutConfig.model_construct(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in readout.items()}
    )
    idle = idle_keys(config)
    return {key: value for key, value in readout.items() if key not in idle}


def _why_idle(config: ReadoutConfig, idle: Sequence[str]) -> tuple[str, str]:
    """What keeps keys from having an effect, and the other remedy than leaving them out."""
    if "nonlinearity" in idle:
        return f"readout.kind {config.kind}", ", or set readout.kind: mlp"
    if config.kind == "kan":
        return f"readout.basis {config.basis}", ", or set readout.basis: bspline"
    if config.kind == "mlp" and config.hidden:
        return "readout.kind mlp with readout.hidden", ", or set readout.kind: kan"
    return f"readout.kind {config.kind}", ", or set readout.kind: kan"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def parse_readout(readout: ReadoutConfig | Mapping | str | None) -> ReadoutConfig:
    """Read a readout from a mapping (also Hydra's), from its kind alone, or take the default.

    Raises:
        KanMdError: a key is unknown or a value is not allowed.
    """
    try:
        return ReadoutConfig.model_validate(readout)
    except ValidationError as error:
        raise readable(error, ReadoutConfig, within=["readout"]) from error


class MLP(torch.nn.Sequential):
    """Bias-free multilayer perceptron with one nonlinearity between its layers; f(0) = 0.

    Weights are uniform with unit variance and scaled by gain/√fan_in, gain √2 behind a
    nonlinearity, as upstream initialises its own.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        nonlinearity: Nonlinearity = "silu",
    ):
        layers: list[torch.nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            gain = 1.0 if index == 0 else sqrt(2.0)
            layer = ScalarLinearLayer(fan_in, fan_out, alpha=gain / sqrt(fan_in), bias=False)
            with torch.no_grad():
                layer.weight.uniform_(-sqrt(3.0), sqrt(3.0), generator=generator)
            layers += [layer] if index == 0 else [_NONLINEARITIES[nonlinearity](), layer]
        super().__init__(*layers)
        self.dims = list(widths)


class ProjectedKAN(torch.nn.Sequential):
    """A KAN of learned linear combinations of its inputs: f(x) = KAN(x W).

    W starts like the first map of :class:`MLP`, so that its outputs have unit variance.

    Args:
        in_features: number of inputs.
        kan: what follows.
    """

    def __init__(self, in_features: int, kan: KAN, *, generator: torch.Generator | None = None):
        super().__init__(*MLP([in_features, kan.widths[0]], generator=generator), kan)
        self.dims = [in_features, *kan.widths]


def make_readout(
    in_features: int,
    out_features: int,
    config: ReadoutConfig,
    *,
    num_types: int = 1,
    generator: torch.Generator | None = None,
) -> torch.nn.Module:
    """Make one output block, f: [rows, in_features] -> [rows, out_features] with f(0) = 0.

    Parameters take torch's default dtype.

    Args:
        in_features: number of scalars that come in.
        out_features: number of scalars that go out.
        config: kind and shape; ``sites`` is not looked at.
        num_types: number of atom types; only looked at where ``config.per_type`` asks for functions
            of each, which then take [rows, num_types * in_features], see
            :func:`kan_md.kan.per_type.by_type`.
        generator: source of the initial weights; torch's global one where ``None``.

    Returns:
        A scriptable module.
    """
    if config.kind == "finnis_sinclair":
        return FinnisSinclair(in_features, num_types if config.per_type else 1, generator=generator)
    if config.kind == "linear" and config.per_type:
        return LinearPerType(in_features, num_types, generator=generator)
    if config.kind == "linear":
        return MLP([in_features, out_features], generator=generator)
    if config.kind == "mlp":
        hidden = config.hidden or (_matched_width(in_features, out_features, config),)
        widths = [in_features, *hidden, out_features]
        return MLP(widths, generator=generator, nonlinearity=config.nonlinearity)
    kans = [
        KAN(
            [config.projection or in_features, *config.hidden, out_features],
            basis=config.basis,
            num_basis=config.num_basis,
            order=config.order,
            grid_range=config.grid_range,
            base=config.base,
            input_gain=config.input_gain,
            zero_preserving=True,
            generator=generator,
        )
        for _ in range(num_types if config.per_type else 1)
    ]
    if config.per_type:
        widths = [in_features, config.projection]
        return PerTypeKAN(kans, MLP(widths, generator=generator) if config.projection else None)
    return ProjectedKAN(in_features, *kans, generator=generator) if config.projection else kans[0]


def _matched_width(in_features: int, out_features: int, config: ReadoutConfig) -> int:
    """Width of the one hidden layer that matches the KAN's parameter count best."""
    kan = make_readout(
        in_features,
        out_features,
        config.model_copy(update={"kind": "kan", "nonlinearity": "silu"}),
        # Only counted: a generator of its own keeps the draw out of the caller's stream.
        generator=torch.Generator(),
    )
    return max(1, round(count_parameters(kan) / (in_features + out_features)))


def count_parameters(module: torch.nn.Module) -> int:
    """Number of trainable scalars in ``module``."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
