"""Reading what was pickled without running any of it.

A pickle is a program: it names functions and classes and calls them. Here only torch's own
containers and tensors are what they say; everything else that is named becomes an
:class:`Inert` object, which keeps what it was given and does nothing.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """Stands for an object of any class: it has a name and a state, and no behaviour.

    Attributes:
        class_name: ``module.name`` of the class or function that was asked for.
        state: attributes by name, where the pickle gives them.
    """

    class_name = ""
    state: dict[str, object]

    def __new__(cls, *_arguments: object, **_keywords: object) -> Inert:
        """Whatever the arguments; pickle calls no constructor of most objects."""
        made = super().__new__(cls)
        made.state = {}
        return made

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.state = state

    def append(self, _item: object) -> None:
        """Take an item of what was a list."""

    def extend(self, _items: object) -> None:
        """Take items of what was a list."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Take an item of what was a mapping."""

    def __hash__(self) -> int:
        return id(self)


def _rebuild_parameter(data: torch.Tensor, *_: object) -> torch.Tensor:
    return data


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> torch.Tensor:
    """A view of a storage; torch checks that it lies within."""
    return torch.as_strided(storage, size, stride, offset)


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, content: bytes):
        super().__init__(io.BytesIO(content))
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> object:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return type(name, (Inert,), {"class_name": f"{module}.{name}"})

    def persistent_load(self, pid: tuple) -> object:
        kind, *found = pid
        if kind != "storage":
            return Inert()
        dtype, key, _location, size = found
        if key not in self._storages:
            content = self._archive.read(f"{self._root}.data/{key}.storage")
            if not isinstance(dtype, torch.dtype) or len(content) != size * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} is damaged")
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = (
                torch.frombuffer(bytearray(content), dtype=dtype) if size else empty
            )
        return self._storages[key]


def read_package_pickle(path: Path, package: str, resource: str) -> object:
    """Read a pickle in a torch.package archive; modules become :class:`Inert` objects.

    Args:
        path: of the archive.
        package: folder of the resource.
        resource: name of the pickle.

    Raises:
        pickle.UnpicklingError: the content is damaged, or nothing of the kind.
        KeyError: there is no such resource.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(f"/{package}/{resource}")] or [""]
        root = name.removesuffix(f"{package}/{resource}")
        return _Reader(archive, root, archive.read(name)).load()


def state_of(module: Inert) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers of an inert torch module, by name, in their order."""
    return dict(_walk(module, ""))


def _walk(module: Inert, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    own = module.state
    passing = own.get("_non_persistent_buffers_set") or set()
    for kind in ("_parameters", "_buffers"):
        for name, value in (own.get(kind) or {}).items():
            if isinstance(value, torch.Tensor) and name not in passing:
                yield f"{prefix}{name}", value
    for name, child in (own.get("_modules") or {}).items():
        if isinstance(child, Inert):
            yield from _walk(child, f"{prefix}{name}.")
