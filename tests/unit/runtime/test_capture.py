"""What is recorded, when it is recorded anew, and what is said where it cannot be."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.helpers.tape import Tape, Unrecordable
from torch import Tensor, nn
from torch.distributions import Gamma

from topocell.config.search import WeightOptimizer
from topocell.errors import RunError
from topocell.io.checkpoint import restore_optimizer
from topocell.nn.scheduled import Scheduled, current, hold, is_held
from topocell.runtime import capture
from topocell.runtime.capture import CudaGraphs, Steps
from topocell.runtime.optimizers import build_optimizer, rate_of, set_rate
from topocell.runtime.precision import Execution
from topocell.runtime.same_draws import SameDraws


def test_each_kind_is_recorded_once_and_anew_when_the_structure_changes() -> None:
    tape, calls = Tape(), list[str]()
    steps = Steps(tape)
    total = torch.zeros(3)

    def act(x: Tensor) -> Tensor:
        calls.append("python")
        return total.add_(x) * 2

    values = [float(steps("all", "add", act, (torch.full((3,), float(i)),))[0]) for i in range(5)]
    assert values == [0, 2, 6, 12, 20] and len(calls) == 2 and (tape.recorded, tape.replays) == (1, 4)
    steps("all", "other", act, (torch.ones(3),))
    steps("all", "add", act, (torch.ones(1),))  # of another size
    assert len(calls) == 4
    steps("fewer", "add", act, (torch.ones(3),))
    steps("fewer", "add", act, (torch.ones(3),))
    assert len(calls) == 6 and tape.recorded == 2 and total.tolist() == [14, 14, 14]


def test_where_nothing_can_be_recorded_it_is_said_once_and_steps_go_on() -> None:
    said = list[str]()
    steps = Steps(Unrecordable(), said.append)
    assert [int(steps((), (), lambda x: x + 1, (torch.tensor(i),))) for i in range(4)] == [1, 2, 3, 4]
    assert len(said) == 1 and said[0].endswith("they cannot be recorded (not on this device)") and not steps.records


def test_a_step_that_fails_after_such_a_recording_says_how_to_resume() -> None:
    calls = list[int]()

    def act() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    steps = Steps(Unrecordable())
    steps((), (), act, ())
    with pytest.raises(RunError, match=r"Offset increment .*; resume with runtime\.capture=off"):
        steps((), (), act, ())


class _Graph:
    """A CUDA graph that is told what to do when it is replayed."""

    def __init__(self) -> None:
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1


def test_graphs_are_recorded_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of PyTorch, as nothing here can carry them out."""
    seen, pools, made = list[Any](), iter("abc"), list[_Graph]()

    def new_graph() -> _Graph:
        made.append(_Graph())
        return made[-1]

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.device = device

        def wait_stream(self, other: Any) -> None:
            seen.append((self, "waits for", other))

    @contextmanager
    def graph(graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        seen.append(("records", pool, stream, capture_error_mode))
        yield

    @contextmanager
    def on(stream: Any) -> Any:
        seen.append(("on", stream))
        yield

    main = Stream()
    fakes = {"Stream": Stream, "CUDAGraph": new_graph, "graph": graph, "stream": on}
    fakes |= {"current_stream": lambda device: main, "graph_pool_handle": lambda: next(pools)}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    recorder = CudaGraphs(torch.device("cuda"))
    side = recorder._stream
    assert recorder.warm_up(lambda: 7) == 7
    assert seen == [(side, "waits for", main), ("on", side), (main, "waits for", side)]
    result, replay = recorder.record(lambda: 8)
    replay()
    assert result == 8 and seen[-1] == ("records", "a", side, "thread_local") and made[-1].replayed == 1
    recorder.forget()
    recorder.record(lambda: 9)
    assert seen[-1][1] == "b"
    assert isinstance(Execution().recorder(torch.device("cuda")), CudaGraphs)
    assert Execution(capture="off").recorder(torch.device("cuda")) is None
    assert Execution().recorder(torch.device("cpu")) is None and not Execution().holds(torch.device("cpu"))
    assert Execution(capture="off").holds(torch.device("cuda"))


def draws() -> list[Tensor]:
    """All ways to draw."""
    return [
        torch.rand(3),
        torch.randn_like(torch.empty(2)),
        torch.empty(3).exponential_(),
        nn.functional.dropout(torch.ones(20), 0.5),
        Gamma(torch.ones(2), torch.ones(2)).rsample(),
        torch.randn(2),
    ]


@pytest.mark.parametrize("recording", [False, True])
def test_passes_draw_the_same(recording: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_depth", int(recording))
    torch.manual_seed(0)
    same, passes = SameDraws(torch.device("cpu")), []
    for _ in range(3):
        with same:
            passes.append(draws())
    after = torch.rand(3)
    torch.manual_seed(0)
    for found in (*passes, draws()):
        assert all(torch.equal(a, b) for a, b in zip(found, passes[0], strict=True))
    assert torch.equal(after, torch.rand(3))


class Dropping(nn.Module):
    rate = Scheduled(0.25)
    size = Scheduled()


def test_a_scheduled_number_is_a_tensor_too_where_it_is_held() -> None:
    net, other = Dropping(), Dropping()
    assert (net.rate, net.size, current(net, "rate"), is_held(net)) == (0.25, 0.0, 0.25, False)
    net.size = 2.0
    hold(net, torch.device("cpu"))
    tensor = current(net, "rate")
    net.rate = 0.1
    assert isinstance(tensor, Tensor) and float(tensor) == net.rate == 0.1 and current(net, "rate") is tensor
    assert float(current(net, "size")) == 2.0 and (torch.ones(2) * tensor).dtype == torch.float32
    assert is_held(net) and not is_held(other) and other.rate == 0.25


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"momentum": 0.0}, {"optimizer": "adamw"}])
def test_an_optimizer_that_is_held_does_what_it_does_otherwise(options: dict[str, Any]) -> None:
    plan = WeightOptimizer(**options)
    weights = [nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    plain, held = build_optimizer(weights[:1], plan, 0.1), build_optimizer(weights[1:], plan, 0.1, held=True)
    for rate in (0.1, 0.05, 0.05):
        for optimizer, weight in zip((plain, held), weights):
            set_rate(optimizer, rate)
            weight.grad = weight.detach() * 3 + 1
            optimizer.step()
        torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)
        assert rate_of(plain) == rate_of(held) == rate


def test_the_learning_rate_keeps_its_place_when_a_state_is_restored() -> None:
    weight = nn.Parameter(torch.ones(3))
    plain, held = (
        build_optimizer([weight], WeightOptimizer(), 0.1),
        build_optimizer([weight], WeightOptimizer(), 0.2, held=True),
    )
    place = held.param_groups[0]["lr"]
    set_rate(held, 0.3)
    state = held.state_dict()
    restore_optimizer(plain, state)
    assert plain.param_groups[0]["lr"] == pytest.approx(0.3) and not plain.param_groups[0]["fused"]
    set_rate(plain, 0.4)
    assert rate_of(plain) == 0.4
    restore_optimizer(held, build_optimizer([weight], WeightOptimizer(), 0.7).state_dict())
    assert held.param_groups[0]["lr"] is place and rate_of(held) == pytest.approx(0.7) and held.param_groups[0]["fused"]
    set_rate(held, 0.7)
    assert float(place) == pytest.approx(0.7)
