"""What test_emulated_device.py runs in a process that has the emulated device.

Called with the library and with folders of deployed models. Prints JSON: for each check and folder
a traceback or null.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from emulated_device import DEVICE, load_emulated_device

ACCEPTED = (
    lambda x: torch.where(x > 0, x, 0.0),
    lambda x: x.fill_(2.0) * 3.0,  # numbers of the host
    lambda x: x + torch.tensor(1.0, dtype=torch.float64),
    lambda x: torch.repeat_interleave(x[:2].long().clamp(1, 1), output_size=2),
)
REFUSED = {
    "item()": lambda x: x.sum().item(),
    "aten::nonzero": lambda x: x.nonzero(),
    "aten::nonzero (mask)": lambda x: x[x > 0],
    "aten::_index_put_impl_": lambda x: x.index_put_((x > 0,), x[:1]),
    "aten::masked_select": lambda x: torch.masked_select(x, x > 0),
    "aten::_unique2": lambda x: torch.unique(x),
    "aten::bincount": lambda x: torch.bincount(x.long().abs()),
    "aten::equal": lambda x: torch.equal(x, x),
    "aten::repeat_interleave.Tensor": lambda x: torch.repeat_interleave(x.long().abs()),
    "a copy from device to host": lambda x: x.cpu(),
    "a copy from host to device": lambda x: x.copy_(torch.ones(4)),
    "synchronization": lambda x: torch.accelerator.current_stream().synchronize(),
}


class Network(torch.nn.Module):
    """A potential in small: edges to atoms, and forces by the gradient inside of forward."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 8, dtype=torch.float64)
        self.second = torch.nn.Linear(8, 1, dtype=torch.float64)

    def forward(
        self, vectors: torch.Tensor, index: torch.Tensor, types: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = vectors.detach().clone().requires_grad_(True)
        hidden = torch.nn.functional.silu(self.first(vectors))
        atoms = torch.zeros(types.size(0), 8, dtype=hidden.dtype, device=hidden.device)
        atoms = atoms.index_add(0, index[0], hidden)
        pairs = torch.cat([atoms[index[0]] * hidden, torch.cumsum(atoms, 0)[index[1]]])
        padding = torch.arange(pairs.size(0), device=pairs.device) < 2 * index.size(1) - 1
        energy = torch.where(
            padding.unsqueeze(1), self.second(pairs), torch.zeros_like(pairs[:, :1])
        )
        energy = energy * types[0]
        forces = torch.autograd.grad([energy.sum()], [vectors])[0]
        assert forces is not None
        return energy.detach(), forces


def example(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    return vectors, torch.randint(4, (2, 6), generator=generator), torch.tensor([2, 1, 1, 1])


def networks() -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """Pairs on the CPU and on the device: eager, and scripted."""
    torch.manual_seed(0)
    eager = Network()
    torch.jit.script(eager).save("network.pt")
    on_device = Network().to(DEVICE)
    on_device.load_state_dict(eager.state_dict())
    scripted = torch.jit.load("network.pt", map_location=DEVICE)
    return [(eager, on_device), (eager, scripted)]


def capture(function: Callable) -> tuple[torch.accelerator.Graph, object]:
    """Capture a call after three that warm up: TorchScript compares constants in its first ones."""
    graph = torch.accelerator.Graph()
    with torch.Stream(device=DEVICE):
        for _ in range(3):
            function()
        graph.capture_begin()
        try:
            result = function()
        finally:
            graph.capture_end()
    return graph, result


def counters() -> dict[str, int]:
    return dict(torch.ops.emulated_device.counters())


def raises(text: str, function: Callable) -> None:
    try:
        function()
    except RuntimeError as error:
        assert text in str(error), f"{error} does not say {text!r}"
    else:
        raise AssertionError(f"nothing says {text!r}")


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 0.0) -> None:
    assert found.device == torch.device(DEVICE)
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


def check_values_and_gradients_are_those_of_the_cpu():
    for host, device in networks():
        for _ in range(3):
            for found, expected in zip(
                device(*(x.to(DEVICE) for x in example())), host(*example()), strict=True
            ):
                assert_same(found, expected, 1e-12)


def check_operators_give_what_the_cpu_gives():
    x, index, _ = example()
    for function in (
        lambda x, i: torch.bmm(x.view(2, 3, 3), x.view(2, 3, 3).transpose(1, 2)),
        lambda x, i: torch.einsum("ij,kj->ik", x, x),
        lambda x, i: torch.zeros_like(x).scatter_(0, i[0].unsqueeze(1).expand(-1, 3), x),
        lambda x, i: x.index_select(0, i[0]).unfold(1, 2, 1),
        lambda x, i: torch.full((2, 2), 3.0, device=x.device) + torch.eye(2, device=x.device),
        lambda x, i: torch.linspace(0, 1, 5, device=x.device)[1:].flip(0),
        lambda x, i: torch.sort(x.flatten())[0].view(torch.int64),
        lambda x, i: torch.add(x, 1, out=torch.empty(0, dtype=x.dtype, device=x.device)),
        lambda x, i: x.index_put((i[0],), x[0], accumulate=True),
        lambda x, i: x[x[:, 0] > 0],
        lambda x, i: torch.nn.functional.layer_norm(x, (3,)),
        lambda x, i: x.t().contiguous().resize_(2, 2),
        lambda x, i: torch.linalg.norm(x, dim=1).to(torch.float32).bool(),
        lambda x, i: torch.stack(x.split([1, 5])[1].unbind(1)).sum(0, keepdim=True),
        lambda x, i: torch.stack(torch._foreach_add(list(x.clone().unbind(0)), 1.0)),
    ):
        assert_same(function(x.to(DEVICE), index.to(DEVICE)), function(x, index), 1e-12)


def check_tensors_of_two_devices_do_not_mix():
    x, index, _ = example()
    device = x.to(DEVICE)
    wrong = "Expected all tensors to be on the same device"
    raises(wrong, lambda: device + x)
    raises(wrong, lambda: torch.mm(device, x.t()))
    raises(wrong, lambda: device.index_select(0, index[0]))
    raises("in the same device", lambda: device.index_add_(0, index[0].to(DEVICE), x))
    raises("out", lambda: torch.add(device, 1, out=x))
    raises("there is one emulated device", lambda: torch.ones(1, device="privateuseone:1"))
    assert_same(device * torch.tensor(2.0), x * 2.0)  # a scalar may come from the host


def check_a_graph_repeats_forward_and_gradient_with_new_inputs():
    for host, device in networks():
        inputs = [x.to(DEVICE) for x in example()]
        graph, (energy, forces) = capture(lambda d=device, i=inputs: d(*i))
        before = counters()
        for seed in (1, 2, 1):
            for place, value in zip(inputs, example(seed), strict=True):
                place.copy_(value)
            graph.replay()
            for found, expected in zip((energy, forces), host(*example(seed)), strict=True):
                assert_same(found, expected, 1e-12)
        after = counters()
        assert after["replays"] - before["replays"] == 3
        assert after["operators"] == before["operators"]
        assert after["host_to_device"] - before["host_to_device"] == 9


def check_a_graph_writes_where_its_operators_wrote():
    x = torch.zeros(4, dtype=torch.float64, device=DEVICE)
    steps = torch.zeros(1, dtype=torch.float64, device=DEVICE)
    out = torch.empty(2, dtype=torch.float64, device=DEVICE)

    def step():
        x[::2].add_(1.0)
        torch.mul(x[:2], 3.0, out=out)
        steps.copy_(steps + 1)
        return out[1:], x.view(2, 2)

    graph, (tail, square) = capture(step)
    assert_same(steps, torch.tensor([3.0], dtype=torch.float64))  # warm-up; a capture runs nothing
    graph.replay()
    graph.replay()
    assert_same(steps, torch.tensor([5.0], dtype=torch.float64))
    assert_same(square, torch.tensor([[5.0, 0.0], [5.0, 0.0]], dtype=torch.float64))
    assert_same(out, torch.tensor([15.0, 0.0], dtype=torch.float64))
    assert_same(tail, torch.tensor([0.0], dtype=torch.float64))


def check_results_of_a_capture_are_unknown_before_a_replay():
    x = torch.ones(4, dtype=torch.float64, device=DEVICE)
    graph, result = capture(lambda: x + 1)
    assert result.isnan().all()
    graph.replay()
    assert_same(result, torch.full((4,), 2.0, dtype=torch.float64))


def check_a_graph_keeps_the_scalars_of_the_host():
    x = torch.ones(4, dtype=torch.float64, device=DEVICE)
    factor = torch.tensor(2.0, dtype=torch.float64)
    graph, result = capture(lambda: x * factor)
    factor.fill_(5.0)
    graph.replay()
    assert_same(result, torch.full((4,), 2.0, dtype=torch.float64))


def check_a_graph_does_not_follow_a_tensor_that_moves():
    x = torch.ones(4, dtype=torch.float64, device=DEVICE)
    graph, _ = capture(lambda: x + 1)
    x.resize_(4000)
    raises("was resized or moved since the capture", graph.replay)


def check_a_capture_refuses_what_a_graph_cannot_do():
    for name, function in REFUSED.items():
        x = torch.tensor([1.0, -1.0, 0.0, 2.0], dtype=torch.float64, device=DEVICE)
        graph = torch.accelerator.Graph()
        with torch.Stream(device=DEVICE):
            graph.capture_begin()
            message = name.split(" (")[0]
            raises(message, lambda f=function, x=x: f(x))
            raises("the capture has failed: " + message, graph.capture_end)
        raises("no captured graph", graph.replay)
        assert_same(x, torch.tensor([1.0, -1.0, 0.0, 2.0], dtype=torch.float64))
    for function in ACCEPTED:
        x = torch.ones(4, dtype=torch.float64, device=DEVICE)
        capture(lambda f=function, x=x: f(x))


def check_a_capture_needs_a_stream_of_its_own():
    graph = torch.accelerator.Graph()
    raises("cannot be captured on the default stream", graph.capture_begin)
    x = torch.ones(4, device=DEVICE)
    with torch.Stream(device=DEVICE):
        graph.capture_begin()
        with torch.Stream(device=DEVICE):
            raises("the capture is of stream", lambda: x + 1)
        raises("the capture has failed", graph.capture_end)


def check_counters_count():
    torch.ops.emulated_device.reset()
    assert set(counters().values()) == {0}
    x = torch.ones(5, dtype=torch.float64).to(DEVICE)
    x.copy_(torch.ones(5, dtype=torch.float64).pin_memory(), non_blocking=True)
    x.copy_(torch.ones(5, dtype=torch.float32))  # counted as it arrives
    y = x.view(5, 1).t() * 2  # a view is no work
    torch.empty(7, dtype=torch.float64, pin_memory=True)[:5].copy_(y[0])
    y.clone()
    y.sum().item()
    torch.equal(y, y)
    torch.zeros(0).to(DEVICE)
    stream = torch.Stream(device=DEVICE)
    graph = torch.accelerator.Graph()
    with stream:
        graph.capture_begin()
        x + 1
        graph.capture_end()
    for _ in range(4):
        graph.replay()
    assert counters() == {
        "host_to_device": 3,
        "device_to_host": 1,
        "host_to_device_bytes": 120,
        "device_to_host_bytes": 40,
        "scalar_reads": 2,
        "captures": 1,
        "replays": 4,
        "operators": 5,  # product, copy, sum, equal, sum that is captured
    }


def check_pinned_memory_is_known():
    pinned = torch.ones(5).pin_memory()
    assert pinned.is_pinned()
    assert pinned[2:].is_pinned()
    assert not torch.ones(5).is_pinned()


def check_deployed_models_run_and_replay(folder: Path):
    """Each folder holds model.pth and inputs.pt."""
    inputs = torch.load(folder / "inputs.pt")
    host = torch.jit.load(folder / "model.pth", map_location="cpu")
    device = torch.jit.load(folder / "model.pth", map_location=DEVICE)
    moved = [x.to(DEVICE) for x in inputs]
    places = [x.clone() for x in moved]

    def run():
        # A deployed model may mark the tensor that it differentiates by.
        return device(places[0].detach(), *places[1:])

    graph, results = capture(run)
    for factor in (1.0, 1.01):
        vectors = inputs[0] * factor
        expected = host(vectors.clone(), *inputs[1:])
        for found, value in zip(device(vectors.to(DEVICE), *moved[1:]), expected, strict=True):
            assert_same(found.detach(), value.detach(), 1e-12)
        places[0].copy_(vectors)
        graph.replay()
        for found, value in zip(results, expected, strict=True):
            assert_same(found.detach(), value.detach(), 1e-12)


def outcome(check: Callable, *arguments) -> str | None:
    try:
        check(*arguments)
    except Exception:  # every failure is reported by the test that asks for it
        return traceback.format_exc()
    return None


def main(library: str, *folders: str) -> None:
    warnings.simplefilter("ignore")
    load_emulated_device(library)
    outcomes = {}
    for name, check in globals().items():
        if name.startswith("check_") and name != "check_deployed_models_run_and_replay":
            outcomes[name] = outcome(check)
    for folder in folders:
        outcomes[Path(folder).name] = outcome(check_deployed_models_run_and_replay, Path(folder))
    print(json.dumps(outcomes))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(*sys.argv[1:])
