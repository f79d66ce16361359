"""A function of a module's tensors as the operations that torch takes for it, with its gradient.

Products of weights are a few hundred small operations a step, and most of their time is Python's:
modules made, slices worked out, nodes of autograd's graph. What is done does not change from step
to step, so it is written down once, the gradient included, and repeated without all that: by
torch's own interpreter, which reads what was traced of it, and takes a third of the time that
Python takes to ask for one operation after the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kan_md.errors import KanMdError
from kan_md.forms.edge_functions import THIRD_DERIVATIVES
from kan_md.forms.kept import SideBySide, are_equal, side_by_side

_OF_VALUES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")
"""Operations by which a function may go another way where a tensor has other values."""
_SAME = ("detach", "alias")

Make = Callable[[], Sequence[torch.Tensor]]


class Recorded:
    """Repeats a function of some tensors, differentiable once by those that take gradients.

    The others are constants, whatever is made of them alone as well, as long as their values stay.
    It is written down again where these change, or where others take gradients or are elsewhere.

    Args:
        make: reads the tensors and makes others, by operations that do not depend on values.
    """

    def __init__(self, make: Make):
        self._make = make
        self._kind: list[tuple[int, int, bool]] = []
        self._values: SideBySide = {}
        self._tape: _Tape | None = None

    def __call__(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What the function gives now.

        Args:
            tensors: all that it reads and that may change, always in the same order.
        """
        kind = [(id(t), t.data_ptr(), t.requires_grad) for t in tensors]
        learned = list({id(t): t for t in tensors if t.requires_grad}.values())
        with torch.no_grad():
            values = side_by_side([t for t in tensors if not t.requires_grad])
        if kind != self._kind or not are_equal(values, self._values):
            self._tape, self._kind, self._values = _Tape(self._make, learned), kind, values
        return _Repeated.apply(self._tape, *learned)


class _Repeated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tape, *tensors):
        results, between = tape.forward(tensors)
        ctx.tape, ctx.between = tape, between
        return results

    @staticmethod
    def backward(ctx, *grads):
        return None, *_Gradient.apply(ctx.tape, ctx.between, *grads)


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tape, between, *grads):
        return tape.backward(between, grads)

    @staticmethod
    def backward(ctx, *grads):
        raise KanMdError(THIRD_DERIVATIVES)


class _Step:
    """An operation and the slots of its arguments and results.

    Args:
        function: of torch's dispatcher.
        args: its arguments.
        kwargs: those with names.
        slot_of: of a tensor; None for a constant.
    """

    def __init__(
        self,
        function: Callable,
        args: Sequence[object],
        kwargs: dict[str, object],
        slot_of: Callable[[torch.Tensor], int | None],
    ):
        self._function, self._kwargs = function, kwargs
        self._args = [list(a) if isinstance(a, (list, tuple)) else a for a in args]
        self._places: list[tuple[Any, Any, int]] = []  # container, index, slot
        for container in (self._args, *(a for a in self._args if isinstance(a, list)), kwargs):
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for index, value in items:
                slot = slot_of(value) if isinstance(value, torch.Tensor) else None
                if slot is not None:
                    self._places.append((container, index, slot))
        self.results: list[int] = []
        self.writes = function._schema.is_mutable

    @property
    def reads(self) -> list[int]:
        """Slots of its arguments."""
        return [slot for _, _, slot in self._places]

    def __call__(self, values: list[torch.Tensor | None]) -> None:
        """Compute from the slots into the slots."""
        for container, index, slot in self._places:
            container[index] = values[slot]
        out = self._function(*self._args, **self._kwargs)
        if isinstance(out, (list, tuple)):
            for slot, value in zip(self.results, out, strict=True):
                values[slot] = value
        else:
            values[self.results[0]] = out


class _Recorder(TorchDispatchMode):
    """Writes down what is done, with a slot for each tensor."""

    def __init__(self, inputs: Iterable[torch.Tensor]):
        super().__init__()
        self.steps: list[_Step] = []
        self.tensors: list[torch.Tensor] = []  # kept, so that none takes the identity of another
        self._slots: dict[int, int] = {}
        self._same: list[torch.Tensor] = []
        for tensor in inputs:
            self.add(tensor)

    def add(self, tensor: torch.Tensor) -> int:
        """A slot for a tensor."""
        self._slots[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)
        return self._slots[id(tensor)]

    def slot_of(self, tensor: torch.Tensor) -> int | None:
        """Its slot, if it has one."""
        return self._slots.get(id(tensor))

    def place_of(self, tensor: torch.Tensor) -> int:
        """Its slot; a new one for what was there before."""
        slot = self.slot_of(tensor)
        return self.add(tensor) if slot is None else slot

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        step, name = _Step(func, args, dict(kwargs or {}), self.slot_of), func._schema.name
        name = name.removeprefix("aten::")
        assert name not in _OF_VALUES or not step.reads, f"{name} depends on values"
        out = func(*args, **(kwargs or {}))
        if name in _SAME and step.reads:
            self._same.append(out)
            self._slots[id(out)] = step.reads[0]
            return out
        several = out if isinstance(out, (list, tuple)) else [out]
        for value in several:
            known = self.slot_of(value) if step.writes else None
            step.results.append(self.add(value) if known is None else known)
        self.steps.append(step)
        return out


class _Tape:
    """What a function and its gradient do.

    Args:
        make: see :class:`Recorded`.
        tensors: those that take gradients.
    """

    def __init__(self, make: Make, tensors: Sequence[torch.Tensor]):
        recorder = _Recorder(tensors)
        with torch.enable_grad(), recorder:
            made = make()
        num_forward = len(recorder.steps)
        results = [recorder.place_of(one) for one in made]
        cotangents = [recorder.add(torch.zeros_like(one)) for one in made]
        reached = [n for n, one in enumerate(made) if one.requires_grad]
        with recorder:
            grads = torch.autograd.grad(
                [made[n] for n in reached],
                tensors,
                [recorder.tensors[cotangents[n]] for n in reached],
                allow_unused=True,
            )
        slots = [None if grad is None else recorder.place_of(grad) for grad in grads]
        gradients = [slot for slot in slots if slot is not None]
        inputs = list(range(len(tensors)))
        steps = _needed(recorder, {*results, *gradients})
        steps, constants = _without_constants(
            recorder, steps, {*inputs, *cotangents}, {*results, *gradients}
        )
        kept = set(map(id, recorder.steps[:num_forward]))
        forward = [step for step in steps if id(step) in kept]
        backward = [step for step in steps if id(step) not in kept]
        there = {*inputs, *(slot for step in forward for slot in step.results)}
        read = {*gradients, *(slot for step in backward for slot in step.reads)}
        between = sorted(there & read)
        self._num_results, self._is_reached = len(results), [slot is not None for slot in slots]
        trace = partial(_traced, recorder, dict(constants))
        self._forward = trace(forward, inputs, [*results, *between])
        self._backward = trace(backward, [*between, *cotangents], gradients)

    def forward(
        self, tensors: Sequence[torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """What the function gives, and what its gradient reads of the way there."""
        with torch.jit.optimized_execution(False):
            values = self._forward(*tensors)
        return values[: self._num_results], values[self._num_results :]

    def backward(
        self, between: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients by the tensors."""
        with torch.jit.optimized_execution(False):
            found = iter(self._backward(*between, *grads))
        return tuple(next(found) if reached else None for reached in self._is_reached)


def _traced(
    recorder: _Recorder,
    constants: dict[int, torch.Tensor],
    steps: Sequence[_Step],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Steps as a function of the tensors in some slots that gives those in others.

    Args:
        recorder: has examples of all tensors.
        constants: by their slots.
        steps: in their order.
        inputs: slots that are given.
        outputs: slots that are asked for.
    """
    made = [slot for slot in outputs if slot not in constants]

    def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values: list[torch.Tensor | None] = [None] * len(recorder.tensors)
        for slot, value in (*constants.items(), *zip(inputs, given, strict=True)):
            values[slot] = value
        for step in steps:
            step(values)
        return tuple(values[slot] for slot in made)

    function: Callable = run
    if made:
        examples = tuple(recorder.tensors[slot].detach().clone() for slot in inputs)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+.* is deprecated")
            function = torch.jit.trace(run, examples, check_trace=False)
    if len(made) == len(outputs):
        return function

    def with_constants(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = iter(function(*given))
        return tuple(constants[slot] if slot in constants else next(found) for slot in outputs)

    return with_constants


def _needed(recorder: _Recorder, ends: set[int]) -> list[_Step]:
    """The steps that some slots depend on, memory that views share included."""
    memory = [tensor.untyped_storage()._cdata for tensor in recorder.tensors]
    slots, memories, kept = set(ends), {memory[slot] for slot in ends}, []
    for step in reversed(recorder.steps):
        if slots.isdisjoint(step.results) and not (
            step.writes and not memories.isdisjoint(memory[slot] for slot in step.results)
        ):
            continue
        kept.append(step)
        slots.update(step.reads)
        memories.update(memory[slot] for slot in step.reads)
    return kept[::-1]


def _without_constants(
    recorder: _Recorder, steps: Sequence[_Step], changing: set[int], ends: set[int]
) -> tuple[list[_Step], list[tuple[int, torch.Tensor]]]:
    """The steps that depend on tensors that change, and slots of the results of the others.

    A tensor that is written to by one of the former is made anew each time.
    """
    memory = [tensor.untyped_storage()._cdata for tensor in recorder.tensors]
    variable = {memory[slot] for slot in changing}
    while True:
        before = len(variable)
        for step in steps:
            places = {memory[slot] for slot in step.reads}
            if not variable.isdisjoint(places):
                variable.update(memory[slot] for slot in step.results)
        if len(variable) == before:
            break
    rest = [s for s in steps if not variable.isdisjoint(memory[slot] for slot in s.results)]
    used = ends.union(*(step.reads for step in rest))
    made = {slot for step in rest for slot in step.results} | changing
    return rest, [(slot, recorder.tensors[slot].detach()) for slot in sorted(used - made)]
