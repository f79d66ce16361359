"""What a deployed file promises to whoever runs it: names, shapes, units, manifest.

A deployed potential is a function of the neighbour list alone::

    forward(edge_vectors, edge_index, atom_types, num_local) -> (atomic_energy, edge_forces)

    edge_vectors   [num_edges, 3] float64   r_neighbour - r_centre, Å
    edge_index     [2, num_edges] int64     row 0 centre, row 1 neighbour; sorted by centre
    atom_types     [num_atoms]    int64     index into the manifest's ``type_names``
    num_local      [1]            int64     the first num_local atoms are local, the rest ghosts
    atomic_energy  [num_atoms, 1] float64   eV; the rows of ghosts mean nothing
    edge_forces    [num_edges, 3] float64   d(sum of local atoms' energies)/d(edge_vectors), eV/Å

Inputs and outputs are float64 whatever the model's own dtype is, so energies and virials accumulate
in double precision. Cells, periodic images and MPI ranks never enter the model; forces, virial and
heat flux are sums of ``edge_forces`` over edges:

    F_centre += edge_force,  F_neighbour -= edge_force,  W = -sum edge_vector ⊗ edge_force.

``pair_styles/core/contract.h`` repeats the names below for C++; a test holds the two together.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Literal, get_args

from kan_md.errors import KanMdError

CONTRACT_VERSION = 1
"""Of the deployed function: its inputs and outputs."""
FORMAT_VERSION = 1
"""Of the manifest: raised where a key of before means something else, not where one is added."""
MANIFEST_KEY = "kan_md_manifest"
"""Name of the TorchScript extra file and of the AOTInductor metadata entry."""

LISTS_METHOD = "on_lists"
"""Method of a TorchScript file that LAMMPS may compute on its neighbour list without ``forward``.
Files need not have it; see :mod:`kan_md_deploy.on_lists`."""

CHOICE_METHOD = "choose_types"
"""Method of a TorchScript file of many elements that makes its tables; see
:mod:`kan_md_deploy.chosen_types`."""

INPUT_FIELDS = ("edge_vectors", "edge_index", "atom_types", "num_local")
OUTPUT_FIELDS = ("atomic_energy", "edge_forces")

Backbone = Literal["allegro", "nequip", "mace", "etgnn"]
Backend = Literal["torchscript", "aotinductor"]
Dtype = Literal["float32", "float64"]
Kind = Literal["potential", "tensor"]

BACKBONES: tuple[str, ...] = get_args(Backbone)
BACKENDS: tuple[str, ...] = get_args(Backend)
DTYPES: tuple[str, ...] = get_args(Dtype)

UNITS = {"length": "Å", "energy": "eV", "force": "eV/Å", "stress": "eV/Å³ (positive = tension)"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a deployed file says of itself, as ``key=value`` lines.

    Matrices over type pairs are flattened row-major, centre type first. Who reads it leaves keys
    alone that it does not know, so that new ones may come; those with a default may be missing, as
    they are in files of before.

    Attributes:
        format_version: of the manifest; 0 of files that were written before it had one.
        contract_version: version of this page.
        kan_md_version: version that wrote the file.
        torch_version: torch that compiled the file.
        kind: ``potential`` (the function above) or ``tensor`` (see ``outputs``).
        backend: ``torchscript`` or ``aotinductor``.
        device: ``cpu`` or ``cuda``.
        dtype: dtype of the weights.
        backbone: architecture; pair_style NAME accepts only its own.
        r_max: largest cutoff, Å.
        num_layers: hops of message passing that an atom's energy depends on; 1 is strictly local.
        type_names: names of the atom types, in model order.
        atomic_numbers: [num_types].
        masses: [num_types], u.
        cutoffs: [num_types * num_types], Å, per (centre, neighbour) pair.
        min_distances: [num_types * num_types], Å, closest training pair; 0 where never seen.
        isolated_energies: [num_types], eV, energy of one atom without neighbours.
        readout: one-line JSON summary of the output block.
        passes: names of the optimisation passes that were applied, with their bounds, as JSON.
        outputs: one-line JSON; of a ``tensor`` model its per-atom or per-structure tensors, of any
            the types that no training structure had, if there are.
        energy_error: largest |compiled - eager| on the reference frames, eV/atom.
        force_error: the same for forces, relative to the largest reference force.
        num_reference_frames: frames that were compared.
        static_shapes: whether no shape in the file depends on data, so that a GPU can replay it.
        tf32: whether a GPU may multiply float32 matrices with 10 bits of mantissa.
        threads: thread count an AOTInductor CPU file was exported for; 0 where it does not matter.
        operators: of the project's own that the file calls, with their namespace; ``None`` in files
            of before, which do not say.
        model_sha256: of the model.pth it was made from.
    """

    kan_md_version: str
    torch_version: str
    backend: Backend
    device: str
    dtype: Dtype
    backbone: Backbone
    r_max: float
    num_layers: int
    type_names: tuple[str, ...]
    atomic_numbers: tuple[int, ...]
    masses: tuple[float, ...]
    cutoffs: tuple[float, ...]
    isolated_energies: tuple[float, ...]
    min_distances: tuple[float, ...]
    kind: Kind = "potential"
    readout: dict = field(default_factory=dict)
    passes: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    energy_error: float = 0.0
    force_error: float = 0.0
    num_reference_frames: int = 0
    static_shapes: bool = False
    tf32: bool = False
    threads: int = 0
    operators: tuple[str, ...] | None = None
    model_sha256: str = ""
    format_version: int = FORMAT_VERSION
    contract_version: int = CONTRACT_VERSION

    @property
    def untrained_types(self) -> tuple[str, ...]:
        """Types whose weights are as random as before the training."""
        return tuple(self.outputs.get("untrained_types", ()))

    @property
    def precision(self) -> str:
        """What the numbers are good for: ``float64``, ``float32`` or ``tf32``."""
        return "tf32" if self.tf32 else self.dtype

    def to_text(self) -> str:
        """Write one ``key=value`` line per attribute that is known; lists are space-separated,
        dicts are JSON, truth is 0 or 1.
        """
        known = ((key, value) for key, value in asdict(self).items() if value is not None)
        return "".join(f"{key}={_format(value)}\n" for key, value in known)

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Read what :meth:`to_text` wrote.

        Raises:
            KanMdError: a line or a value is none, a key is missing, or the file is of a newer
                format or of another contract.
        """
        raw: dict[str, str] = {}
        for line in text.splitlines():
            key, separator, value = line.partition("=")
            if not separator:
                raise KanMdError(f"manifest line without '=', got {line!r}; deploy the model again")
            raw[key] = value
        version = raw.get("contract_version", "none")
        if version != str(CONTRACT_VERSION):
            raise KanMdError(
                f"contract version of the file, got {version}; allowed: {CONTRACT_VERSION}; "
                "deploy the model again with this version of kan-md"
            )
        raw.setdefault("format_version", "0")
        form = _parse("format_version", "int", raw["format_version"])
        if form > FORMAT_VERSION:
            raise KanMdError(
                f"format of the file's manifest, got {form}; "
                f"allowed: up to {FORMAT_VERSION}; install a newer kan-md"
            )
        needed = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
        missing = sorted(needed - raw.keys())
        if missing:
            raise KanMdError(f"manifest keys, got none of {missing}; deploy the model again")
        types = {f.name: str(f.type) for f in fields(cls) if f.name in raw}
        return cls(**{key: _parse(key, types[key], raw[key]) for key in types})


def _format(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, (tuple, list)):
        return " ".join(_format(item) for item in value)
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def _parse(key: str, annotation: str, value: str) -> object:
    try:
        if annotation == "dict":
            return json.loads(value)
        if annotation.startswith("tuple"):
            item = {"str": str, "int": int, "float": float}[annotation[6:].split(",")[0]]
            return tuple(item(part) for part in value.split())
        if annotation == "bool":
            return bool(("0", "1").index(value))
        return {"int": int, "float": float}.get(annotation, str)(value)
    except ValueError as error:
        raise KanMdError(
            f"manifest entry {key}, got {value!r}; allowed: {annotation}; deploy the model again"
        ) from error
