"""What a refitted model.pth remembers of the structures that its readouts were solved for."""

from __future__ import annotations

import hashlib
from typing import Any

from kan_md.model.checkpoint import Checkpoint
from kan_md.solve.normal import SquareSum
from kan_md.solve.unknowns import Unknowns

MEMORY_KEY = "readout_sums"
"""In ``Checkpoint.statistics``. Its value has ``identity``, see below; ``structures``, how many;
``weights`` of the loss; ``sums`` by label, see :class:`kan_md.solve.normal.SquareSum`;
``precision`` [size, size] and ``alpha2`` by label, see :mod:`kan_md.solve.uncertainty`."""


def identity_of(checkpoint: Checkpoint, unknowns: Unknowns) -> str:
    """Digest of all weights but the unknowns: sums belong to one backbone and its grids."""
    own = {id(parameter) for parameter in unknowns.parameters}
    names = {name for name, value in unknowns.model.named_parameters() if id(value) in own}
    state = hashlib.sha256()
    for name, value in sorted(checkpoint.state_dict.items()):
        if name not in names:
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def remembered(checkpoint: Checkpoint, identity: str) -> dict[str, Any] | None:
    """Sums of earlier solves; None where there are none, or they are another backbone's."""
    memory = checkpoint.statistics.get(MEMORY_KEY)
    if memory is None or memory["identity"] != identity:
        return None
    sums = {name: SquareSum(**one) for name, one in memory["sums"].items()}
    return {**memory, "sums": sums}
