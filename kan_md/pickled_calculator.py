"""ASE calculators that another process can have: by their file, read again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator

from kan_md.builds.cache import file_digest
from kan_md.errors import user_error


class CalculatorOfFile(Calculator):
    """A calculator of a model in a file, for pickle, multiprocessing and copy.deepcopy.

    A compiled model cannot be pickled: the other side reads the file again, which must be there
    and the same.

    Args:
        path: of the file.
        made_with: keyword arguments that make this calculator of the file.
        **calculator_arguments: of ASE.
    """

    def __init__(
        self, path: str | Path, *, made_with: dict[str, Any], **calculator_arguments: object
    ) -> None:
        before = frozenset(self.__dict__)
        super().__init__(**calculator_arguments)
        self._of_ase = frozenset(self.__dict__) - before  # results, parameters, atoms
        self._file, self._made_with = Path(path).resolve(), made_with
        self._digest = file_digest(self._file)

    def __reduce__(self) -> tuple[Callable, tuple, dict[str, Any]]:
        state = {name: self.__dict__[name] for name in self._of_ase}
        return _made_again, (type(self), self._file, self._digest, self._made_with), state

    def __deepcopy__(self, memo: dict[int, Any]) -> CalculatorOfFile:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(
            {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        )
        return copied


def _made_again(
    kind: Callable[..., CalculatorOfFile], file: Path, digest: str, made_with: dict[str, Any]
) -> CalculatorOfFile:
    """The calculator that was pickled.

    Raises:
        KanMdError: the file is not there, or another one is.
    """
    calculator = kind(file, **made_with)
    if calculator._digest != digest:
        raise user_error(
            f"a pickled calculator is made of its file again, {file}",
            found="another content than it had",
            allowed=None,
            remedy="keep the file, or make the calculator anew",
        )
    return calculator
