"""The exchange of features: a copy on one rank, otherwise what its functions are given and give.

Here they are Python's: other ranks' atoms have features that are a known function of their number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from ops_support import check_reverse

from kan_md.ops.library import library_path
from kan_md.ops.modules import Exchange

SIZES = [2, 9, 3]  # scalars, vectors, scalars
WIDTH = sum(SIZES)
VERSION = 2
Pointer, Long = ctypes.c_void_p, ctypes.c_int64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class Blocks(ctypes.Structure):
    _fields_ = (
        ("num_rows", Long),
        ("block_bytes", ctypes.POINTER(Long)),
        ("num_blocks", ctypes.c_int),
    )


AnyBlocks = ctypes.POINTER(Blocks)
Forward = ctypes.CFUNCTYPE(ctypes.c_int, Pointer, Pointer, AnyBlocks, Long)
Reverse = ctypes.CFUNCTYPE(
    ctypes.c_int, Pointer, Pointer, AnyBlocks, Pointer, AnyBlocks, Long, ctypes.c_int
)


class Functions(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("context", Pointer),
        ("forward", Forward),
        ("reverse", Reverse),
    )


def blocks_at(address: int | None, blocks: Blocks, dtype: torch.dtype) -> list[np.ndarray]:
    """Views of the blocks at an address, [num_rows, size] each."""
    kind, bytes_each = (ctypes.c_float, 4) if dtype == torch.float32 else (ctypes.c_double, 8)
    sizes = [blocks.block_bytes[b] // bytes_each for b in range(blocks.num_blocks)]
    assert sizes == SIZES
    views, start = [], 0
    for size in sizes:
        shape = (blocks.num_rows, size)
        view = np.zeros(shape)
        if blocks.num_rows:
            begin = ctypes.cast(address + start * bytes_each, ctypes.POINTER(kind))
            view = np.ctypeslib.as_array(begin, shape)
        views.append(view)
        start += blocks.num_rows * size
    return views


class Ranks:
    """Plays the other ranks: their features are 100 + number, their gradients 10 each."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.sent: list[np.ndarray] = []
        self.returned: list[np.ndarray] = []
        self.functions = Functions(VERSION, None, Forward(self._forward), Reverse(self._reverse))

    def _forward(self, _, features, blocks, num_own):
        views = blocks_at(features, blocks.contents, self.dtype)
        self.sent.append(np.concatenate([view[:num_own] for view in views], axis=1))
        num_others = blocks.contents.num_rows - num_own
        rows = 100.0 + np.arange(num_others * WIDTH).reshape(-1, WIDTH)
        for view, part in zip(views, np.split(rows, np.cumsum(SIZES)[:-1], axis=1), strict=True):
            view[num_own:] = part
        return 0

    def _reverse(self, _, gradients, blocks, own, own_blocks, num_own, value_bytes):
        assert value_bytes == torch.finfo(self.dtype).bits // 8
        views = blocks_at(gradients, blocks.contents, self.dtype)
        self.returned.append(np.concatenate([view[num_own:] for view in views], axis=1))
        for view in blocks_at(own, own_blocks.contents, self.dtype):
            view[:num_own] += 10.0
        return 0


def setter():
    function = ctypes.CDLL(str(library_path())).kan_md_set_exchange
    function.argtypes, function.restype = [Pointer], ctypes.c_int
    return function


@contextmanager
def exchanging(functions: Functions) -> Iterator[None]:
    assert setter()(ctypes.addressof(functions))
    try:
        yield
    finally:
        assert setter()(None)


def blocked(rows: torch.Tensor) -> torch.Tensor:
    """[num_atoms, width] as blocks, see kan_md/ops/modules.py."""
    return torch.cat([part.reshape(-1) for part in torch.split(rows, SIZES, dim=1)])


@DTYPES
@pytest.mark.parametrize("num_atoms", [0, 5])
def test_without_functions_features_stay(operators, dtype, num_atoms):
    x = torch.randn(num_atoms * WIDTH, dtype=dtype, requires_grad=True)
    arguments = (SIZES, torch.tensor([num_atoms]), torch.zeros(num_atoms + 3, dtype=torch.int64))
    assert operators.exchanging(arguments[1]).tolist() == [0]
    out = operators.exchange(x, *arguments)
    torch.testing.assert_close(out, x, rtol=0, atol=0)
    weight = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    torch.testing.assert_close(gradient, weight, rtol=0, atol=0)


@DTYPES
@pytest.mark.parametrize(
    ("num_local", "num_given", "num_atoms"),
    [(3, 3, 7), (3, 7, 7), (4, 4, 4), (0, 0, 5), (0, 5, 5)],
    ids=["own alone", "all given", "no others", "no own", "no own, all given"],
)
def test_features_go_out_and_gradients_come_home(operators, num_local, num_given, num_atoms, dtype):
    rows = torch.randn(num_given, WIDTH, dtype=dtype, requires_grad=True)
    types = torch.arange(num_atoms)
    ranks = Ranks(dtype)
    weight = torch.randn(num_atoms, WIDTH, dtype=dtype)
    with exchanging(ranks.functions):
        local = torch.tensor([num_local])
        assert operators.exchanging(local).tolist() == [1]
        out, out_types = Exchange(SIZES)(blocked(rows), types[:num_given], local, types)
        (gradient,) = torch.autograd.grad((out * blocked(weight)).sum(), rows)
    others = num_atoms - num_local
    received = 100.0 + torch.arange(others * WIDTH, dtype=dtype).view(others, WIDTH)
    expected = blocked(torch.cat([rows.detach()[:num_local], received]))
    torch.testing.assert_close(out.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(out_types, types)
    torch.testing.assert_close(gradient[:num_local], weight[:num_local] + 10.0)
    assert not gradient[num_local:].any()  # these were replaced
    np.testing.assert_array_equal(ranks.sent[0], rows.detach()[:num_local])
    np.testing.assert_array_equal(ranks.returned[0], weight[num_local:])


def test_tracers_are_told_the_truth(operators):
    x = torch.randn(6 * WIDTH, dtype=torch.float64, requires_grad=True)
    local, types = torch.tensor([4]), torch.zeros(6, dtype=torch.int64)
    check_reverse(operators.exchange_backward, (torch.randn_like(x), SIZES, local, x))
    torch.library.opcheck(operators.exchange.default, (x, SIZES, local, types))
    torch.library.opcheck(operators.exchanging.default, (local,))


def test_another_version_of_the_functions_is_refused(operators):
    ranks = Ranks(torch.float64)
    ranks.functions.version = VERSION + 1
    assert setter()(ctypes.addressof(ranks.functions)) == 0
    assert operators.exchanging(torch.tensor([1])).tolist() == [0]


def test_failure_of_the_functions_and_wrong_counts_are_errors(operators):
    ranks = Ranks(torch.float64)
    failing = Functions(VERSION, None, Forward(lambda *_: 1), ranks.functions.reverse)
    x, types = torch.zeros(2 * WIDTH, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    with exchanging(failing), pytest.raises(RuntimeError, match="did not arrive"):
        operators.exchange(x, SIZES, torch.tensor([2]), types)
    with pytest.raises(RuntimeError, match="at least the 3 own and at most the 4 nodes, got 2"):
        operators.exchange(x, SIZES, torch.tensor([3]), types)
    with pytest.raises(RuntimeError, match=f"blocked features of {WIDTH} numbers"):
        operators.exchange(x[1:], SIZES, torch.tensor([1]), types)
