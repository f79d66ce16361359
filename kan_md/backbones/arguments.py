"""Whether two models were asked for alike: arguments of builders held against each other."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from e3nn.o3 import Irreps

from kan_md.backbones.allegro import BESSEL_EMBED
from kan_md.backbones.build import adapter_of, upstream_names
from kan_md.backbones.etgnn import default_triplet_r_max, parse_tensors

STATISTICS = frozenset(
    {
        "avg_num_neighbors",
        "avg_num_triplets",
        "per_type_energy_shifts",
        "per_type_energy_scales",
        "type_shifts",
        "scales",
    }
)
"""Arguments that describe the data a model is trained on, rather than the model."""

TRAINABILITY = frozenset(
    {
        "per_type_energy_scales_trainable",
        "per_type_energy_shifts_trainable",
        "bessel_trainable",
    }
)
"""Arguments that say what is trained; the model is the same one."""

ABSENT = "not given"
"""Stands for a value that one side has not."""


@dataclass(frozen=True)
class Difference:
    """One key that differs.

    Attributes:
        key: its name.
        ours: value here, ``ABSENT`` where there is none.
        theirs: value there, likewise.
    """

    key: str
    ours: object
    theirs: object

    def __str__(self) -> str:
        """Both values, ours first."""
        return f"{self.key} {_short(self.ours)} here, {_short(self.theirs)} there"


def find_differences(
    backbone: str,
    ours: Mapping[str, object],
    theirs: Mapping[str, object],
    *,
    besides: Collection[str] = (),
) -> list[Difference]:
    """Hold the arguments of two models of one backbone against each other.

    What is not given counts as its default, and spelling does not count: ``128x0e+128x1o`` is
    ``128x0e + 128x1o``, 5 is 5.0, a tuple is a list, and one number stands for a list of it.

    Args:
        backbone: of both.
        ours: arguments of :func:`kan_md.backbones.build.build_model`.
        theirs: likewise.
        besides: names to leave out.
    """
    one, other = (_complete(backbone, arguments) for arguments in (ours, theirs))
    return [
        difference
        for key in sorted(one.keys() | other.keys())
        if key not in besides
        for difference in _descend(key, one.get(key, ABSENT), other.get(key, ABSENT))
    ]


def _descend(key: str, one: object, other: object) -> Iterator[Difference]:
    """The innermost keys that differ, of nested values those of one shape."""
    if same(one, other):
        return
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            yield from _descend(f"{key}.{name}", one.get(name, ABSENT), other.get(name, ABSENT))
    elif _is_list(one) and _is_list(other) and len(one) == len(other):
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from _descend(f"{key}[{number}]", mine, theirs)
    else:
        yield Difference(key, one, other)


def same(one: object, other: object) -> bool:
    """Whether two values mean the same, however they are spelt."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if _is_list(one) and _is_list(other):
        return len(one) == len(other) and all(map(same, one, other))
    for number, values in ((one, other), (other, one)):
        # One number for every layer or order, such as ``correlation: 3`` and ``num_features: 32``.
        if _is_list(values) and isinstance(number, Real) and len(values) > 0:
            return all(same(number, value) for value in values)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Real) and isinstance(other, Real):
        return float(one) == float(other)
    if isinstance(one, str) and isinstance(other, str):
        return one == other or _irreps(one) == _irreps(other) is not None
    return one == other


def _complete(backbone: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """With the defaults of what is not given, and of what None stands for."""
    defaults = {
        name: parameter.default
        for name, parameter in adapter_of(backbone).hyperparameters().items()
        if parameter.default is not inspect.Parameter.empty
    }
    found = {**defaults, **upstream_names(backbone, arguments)}
    if backbone == "allegro" and found.get("radial_chemical_embed") is None:
        found["radial_chemical_embed"] = BESSEL_EMBED
    if backbone == "etgnn":
        if found.get("triplet_r_max") is None and "r_max" in found:
            found["triplet_r_max"] = default_triplet_r_max(float(found["r_max"]))
        found["tensors"] = [
            {**spec.model_dump(exclude={"unit"}), "acoustic_sum_rule": spec.projects}
            for spec in parse_tensors(found["tensors"])
        ]
    return found


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _irreps(text: str) -> Irreps | None:
    try:
        return Irreps(text)
    except (ValueError, AssertionError):
        return None


def _short(value: object) -> str:
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."
