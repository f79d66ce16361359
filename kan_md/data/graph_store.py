"""Graphs of structures one behind the other: in memory up to a limit, beyond it in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, overload

import numpy as np
import torch
from nequip.data import AtomicDataDict

from kan_md.files import cannot_write

GIGABYTE = 1e9

_BY_COLUMN = {AtomicDataDict.EDGE_INDEX_KEY}
"""Fields with a column per edge, [2, num_edges]; all others have a row per atom, edge or frame."""

_WHOLE = {AtomicDataDict.EDGE_INDEX_KEY, AtomicDataDict.EDGE_CELL_SHIFT_KEY}
"""Fields of whole numbers, which take most of the memory: kept in four bytes each."""


class GraphStore(Sequence[AtomicDataDict.Type]):
    """Structures as nequip's dictionaries, taken in once and handed out any number of times.

    What a dictionary holds is a view, or a conversion of one: nobody may change it in place.

    Args:
        graphs: of one structure each, all with the same fields.
        memory: bytes that may be kept in memory. What is more goes to a file in the folder for
            temporary files (``TMPDIR``), which has no name and ends with the process; the system
            reads from it what is needed, and keeps that as long as there is memory to spare.

    Attributes:
        num_atoms: of each structure.
        num_edges: of each structure.
        bytes: of all together.
        in_file: whether they are in a file.

    Raises:
        KanMdError: the file cannot be written.
    """

    def __init__(self, graphs: Iterable[AtomicDataDict.Type], *, memory: float) -> None:
        self._columns: dict[str, _Column] = {}
        self.num_atoms: list[int] = []
        self.num_edges: list[int] = []
        self.in_file = False
        try:
            for graph in graphs:
                self._add(graph)
                self.in_file = self.in_file or self.bytes > memory
                if self.in_file:
                    for column in self._columns.values():
                        column.move_to_file()
            for column in self._columns.values():
                column.finish()
        finally:
            for column in self._columns.values():
                column.close()

    @property
    def bytes(self) -> int:
        """Size of all that is kept."""
        return sum(column.bytes for column in self._columns.values())

    def __len__(self) -> int:
        return len(self.num_atoms)

    @overload
    def __getitem__(self, index: int) -> AtomicDataDict.Type: ...

    @overload
    def __getitem__(self, index: slice) -> list[AtomicDataDict.Type]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: column.take(index % len(self)) for name, column in self._columns.items()}

    def field(self, name: str) -> Iterator[torch.Tensor]:
        """One field of every structure."""
        return map(self._columns[name].take, range(len(self)))

    def _add(self, graph: AtomicDataDict.Type) -> None:
        if not self._columns:
            self._columns = {name: _Column(name, value) for name, value in graph.items()}
        assert graph.keys() == self._columns.keys(), "structures of one set have the same fields"
        for name, value in graph.items():
            self._columns[name].add(value)
        self.num_atoms.append(AtomicDataDict.num_nodes(graph))
        self.num_edges.append(AtomicDataDict.num_edges(graph))


class _Column:
    """One field of all structures.

    Args:
        name: of the field.
        example: of a structure.
    """

    def __init__(self, name: str, example: torch.Tensor) -> None:
        self.bytes = 0
        self._by_column = name in _BY_COLUMN
        self._given = example.dtype
        self._kept = torch.int32 if name in _WHOLE else example.dtype
        self._shape = (example.T if self._by_column else example).shape[1:]
        self._pieces: list[torch.Tensor] = []
        self._ends = [0]
        self._file: BinaryIO | None = None

    def add(self, value: torch.Tensor) -> None:
        """Take one structure's rows in."""
        rows = value.T if self._by_column else value
        kept = rows.to(self._kept, copy=True).contiguous()
        assert self._kept == self._given or torch.equal(kept.to(self._given), rows)
        self._pieces.append(kept)
        self._ends.append(self._ends[-1] + len(kept))
        self.bytes += kept.nbytes

    def move_to_file(self) -> None:
        """Write what is in memory behind what is in the file."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - see close()
            for piece in self._pieces:
                self._file.write(piece.numpy().tobytes())
            self._file.flush()
        except OSError as error:
            place = f"graphs beyond data.graph_memory to {tempfile.gettempdir()}"
            raise cannot_write(place, error) from error
        self._pieces = []

    def finish(self) -> None:
        """Bring the pieces together."""
        shape = (self._ends[-1], *self._shape)
        if self._file is None:
            self._all = torch.cat(self._pieces)
            self._pieces = []
            return
        if 0 in shape:  # nothing can be mapped of an empty file
            self._all = torch.empty(shape, dtype=self._kept)
        else:
            dtype = torch.empty(0, dtype=self._kept).numpy().dtype
            self._all = torch.from_numpy(np.memmap(self._file, dtype, mode="r+", shape=shape))

    def close(self) -> None:
        """Give the file back; what is mapped of it stays."""
        if self._file is not None:
            with suppress(OSError):  # told already by what could not be written
                self._file.close()

    def take(self, index: int) -> torch.Tensor:
        """One structure's value as it was given."""
        rows = self._all[self._ends[index] : self._ends[index + 1]].to(self._given)
        return rows.T.contiguous() if self._by_column else rows
