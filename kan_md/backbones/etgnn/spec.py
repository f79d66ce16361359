"""Which tensors a model predicts, and how the user says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from nequip.data import AtomicDataDict, register_fields
from nequip.data._key_registry import get_field_type
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kan_md.errors import user_error
from kan_md.validation import readable

Symmetry = Literal["full", "symmetric", "traceless"]
Owner = Literal["atom", "structure"]
Reduction = Literal["mean", "sum"]

SYMMETRIES: tuple[str, ...] = get_args(Symmetry)

FIELDS = {
    "bec": AtomicDataDict.BORN_CHARGE_KEY,
    "dielectric": AtomicDataDict.DIELECTRIC_KEY,
    "dipole": AtomicDataDict.DIPOLE_KEY,
    "polarization": AtomicDataDict.POLARIZATION_KEY,
    "charges": AtomicDataDict.CHARGE_KEY,
}
"""Names of arrays that nequip knows under another name, or keeps itself."""


class TensorSpec(BaseModel):
    """One tensor property.

    The array's columns run over the Cartesian indices, the last index fastest. For Born charges
    ``bec[3*i + j]`` = dF_j/dE_i: the field's axis comes first.

    Attributes:
        name: of the array in the extended XYZ file (per atom) or of the info entry (per structure).
        rank: 0 scalar, 1 vector, 2 matrix, 3 (piezo-like).
        per: ``atom``, or ``structure``: the ``reduction`` over the structure's atoms.
        symmetry: ``full``; ``symmetric`` (rank 2; rank 3: in the last two indices); ``traceless``
            (rank 2, symmetric without trace).
        reduction: ``mean`` (a crystal's tensor, independent of the cell that is chosen) or
            ``sum`` (a molecule's) over atoms; only ``per: structure``.
        acoustic_sum_rule: subtract the structure's mean, so that the sum over atoms vanishes; only
            ``per: atom``. Default: on for Born charges, off otherwise.
        unit: of the labels, for tables and plots.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("bec", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    rank: int = Field(2, ge=0, le=3)
    per: Owner = "atom"
    symmetry: Symmetry = "full"
    reduction: Reduction = "mean"
    acoustic_sum_rule: bool | None = None
    unit: str = ""

    @model_validator(mode="after")
    def _options_fit_the_rank(self) -> TensorSpec:
        allowed = {2: SYMMETRIES, 3: ("full", "symmetric")}.get(self.rank, ("full",))
        if self.symmetry not in allowed:
            raise ValueError(f"symmetry of rank {self.rank} must be one of {', '.join(allowed)}")
        if self.per == "structure" and self.acoustic_sum_rule:
            raise ValueError("acoustic_sum_rule needs per: atom")
        return self

    @property
    def field(self) -> str:
        """Key in nequip's dict."""
        return FIELDS.get(self.name, self.name)

    @property
    def is_born_charge(self) -> bool:
        """Whether this is the Born effective charge."""
        return self.field == AtomicDataDict.BORN_CHARGE_KEY

    @property
    def projects(self) -> bool:
        """Whether the sum over atoms is made zero."""
        if self.acoustic_sum_rule is None:
            return self.is_born_charge and self.per == "atom"
        return self.acoustic_sum_rule

    @property
    def num_components(self) -> int:
        """3 to the power of the rank."""
        return 3**self.rank

    @property
    def label_unit(self) -> str:
        """Unit for people; Born charges are in e."""
        return self.unit or ("e" if self.is_born_charge else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """Trailing shape in nequip's dict: matrices are [3, 3], everything else is flat."""
        return (3, 3) if self.rank == 2 else (self.num_components,)

    def component_names(self) -> list[str]:
        """``["xx", "xy", …]`` in column order; ``[""]`` for a scalar."""
        axes = np.array(list("xyz"))
        names = np.array([""])
        for _ in range(self.rank):
            names = np.char.add(names[:, None], axes[None, :]).reshape(-1)
        return [str(name) for name in names]

    def register(self) -> None:
        """Tell nequip about the field.

        Raises:
            KanMdError: nequip already uses the name for something else.
        """
        wanted = "node" if self.per == "atom" else "graph"
        present = get_field_type(self.field, error_on_unregistered=False)
        if present not in (None, wanted):
            raise user_error(
                f"tensor {self.name} per {self.per}",
                found=f"a name that already stands for a {present} field",
                allowed=None,
                remedy="rename the array, or correct tensors[].per",
            )
        matrices = {self.field: "ij"} if self.rank == 2 else None
        fields = [self.field] if present is None else []
        register_fields(
            node_fields=fields if wanted == "node" else None,
            graph_fields=fields if wanted == "graph" else None,
            cartesian_tensor_fields=matrices if present is None else None,
        )

    def manifest_entry(self, first_column: int) -> dict:
        """What a deployed file says of this tensor; its columns start at ``first_column``."""
        return {
            "rank": self.rank,
            "per": self.per,
            "symmetry": self.symmetry,
            "reduction": self.reduction,
            "acoustic_sum_rule": self.projects,
            "first_column": first_column,
            "num_columns": self.num_components,
            "components": self.component_names(),
            "unit": self.label_unit,
            "index_order": "[3*i+j] = dF_j/dE_i" if self.is_born_charge else "row-major",
        }


def parse_tensors(
    tensors: TensorSpec | Mapping | str | Sequence | None,
) -> tuple[TensorSpec, ...]:
    """Read one tensor or several from names, mappings (also Hydra's) or specs.

    Raises:
        KanMdError: a key is unknown, a value is not allowed, or two tensors share a name.
    """
    if OmegaConf.is_config(tensors):
        tensors = OmegaConf.to_container(tensors, resolve=True)
    if tensors is None:
        tensors = "bec"
    if isinstance(tensors, (str, Mapping, TensorSpec)):
        tensors = [tensors]
    specs = tuple(_parse_one(index, item) for index, item in enumerate(tensors))
    fields = [spec.field for spec in specs]
    if not specs or len(set(fields)) != len(fields):
        raise user_error(
            "tensors must be one or more different names",
            found=[spec.name for spec in specs],
            allowed=None,
            remedy="correct model.tensors",
        )
    return specs


def _parse_one(index: int, item: object) -> TensorSpec:
    if isinstance(item, TensorSpec):
        return item
    try:
        return TensorSpec.model_validate({"name": item} if isinstance(item, str) else item)
    except ValidationError as error:
        raise readable(error, TensorSpec, within=[f"tensors[{index}]"]) from error
