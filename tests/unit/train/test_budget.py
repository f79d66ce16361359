"""What ends a training, by a clock that the test sets."""

from types import SimpleNamespace

import pytest

from kan_md.config.schema import ScheduleConfig
from kan_md.train import budget as budget_module
from kan_md.train.budget import Budget
from kan_md.train.clock import Clock, Reserve


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is moved."""
    time = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: time.value)
    return time


def trainer(epoch=0, batch=0, batches=10):
    progress = SimpleNamespace(current=SimpleNamespace(processed=batch))
    group = {"lr": 0.0}
    return SimpleNamespace(
        current_epoch=epoch,
        num_training_batches=batches,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        optimizers=[SimpleNamespace(param_groups=[group])],
        callback_metrics={},
        should_stop=False,
        world_size=1,
    )


def make_budget(now, **options):
    clock = Clock(now.value - 8.0, before=options.pop("before", 0.0))  # 8 s of start-up
    reserve = SimpleNamespace(seconds=options.pop("reserve", 12.0))
    options = {"epochs": None, "max_time": 100.0, **options}
    schedule = ScheduleConfig(name="cosine", warmup=0.0, final=0.01)
    return Budget(schedule, 1.0, clock=clock, reserve=reserve, **options)


def step(budget, now, run, seconds):
    budget.on_train_batch_start(run, None, None, 0)
    now.value += seconds
    budget.on_train_batch_end(run, None, None, None, 0)


def test_training_ends_when_another_step_would_leave_too_little_for_the_end(now):
    budget, run = make_budget(now), trainer()
    budget.on_train_start(run, None)
    steps = 0
    while not run.should_stop:
        step(budget, now, run, 7.0)
        steps += 1
    # 100 s less start-up and end are 80 s: eleven steps of 7 s fit.
    assert steps == 11
    assert budget.clock.seconds + budget.reserve.seconds <= 100.0


def test_schedule_reaches_its_end_with_the_training(now):
    budget, run = make_budget(now), trainer()
    budget.on_train_start(run, None)
    budget.on_train_batch_start(run, None, None, 0)
    assert budget.rate == 1.0
    now.value += 40.0
    budget.on_train_batch_start(run, None, None, 0)
    assert budget.rate == pytest.approx((1.0 + 0.01) / 2)
    now.value += 40.0
    budget.on_train_batch_start(run, None, None, 0)
    assert budget.rate == pytest.approx(0.01)


def test_no_epoch_is_begun_that_there_is_no_time_for(now):
    budget, run = make_budget(now), trainer()
    budget.on_train_start(run, None)
    step(budget, now, run, 5.0)
    now.value += 73.0  # a long validation
    budget.on_train_epoch_end(run, None)
    assert run.should_stop


def test_time_of_earlier_processes_counts(now):
    assert make_budget(now, before=75.0).seconds_left == 100.0 - 75.0 - 8.0 - 12.0
    assert make_budget(now, max_time=None).seconds_left == float("inf")


def test_progress_counts_epochs_whatever_the_size_of_a_batch(now):
    budget = make_budget(now, epochs=4, max_time=None)
    assert budget.progress(trainer(epoch=1, batch=5, batches=10)) == 1.5 / 4
    assert budget.progress(trainer(epoch=1, batch=1, batches=2)) == 1.5 / 4


def test_stage_follows_the_progress_also_backwards_in_a_longer_run(now):
    seen = []
    module = SimpleNamespace(loss=SimpleNamespace(set_coeffs=seen.append))
    options = {"base": {"a": 1.0}, "stages": [(0.5, {"b": 1.0}, 0.25)], "max_time": None}
    budget = make_budget(now, epochs=2, **options)
    for epoch in (0, 1):
        budget.on_train_batch_start(trainer(epoch=epoch), module, None, 0)
    assert seen == [{"a": 1.0}, {"b": 1.0}]
    assert budget.rate == 0.25
    longer = make_budget(now, epochs=10, **options)
    longer.load_state_dict(budget.state_dict())
    longer.on_train_batch_start(trainer(epoch=2), module, None, 0)
    assert seen[-1] == {"a": 1.0}
    assert longer.rate > 0.25


def test_reserve_grows_with_what_is_to_be_evaluated(now):
    files = SimpleNamespace(seconds=0.5)
    atoms = {"train": 800, "val": 100, "test": 100}
    reserve = Reserve(atoms, [], files, writing=2.0)
    reserve.on_validation_start(None, None)
    now.value += 3.0
    reserve.on_validation_end(None, None)
    # One more validation and all parts, by 30 ms an atom; two checkpoints; a fifth on top.
    assert reserve.seconds == pytest.approx(1.2 * (0.03 * 1100 + 2 * 0.5) + 2.0)
