"""Pages whose models are trained for them: what is there is kept, what is missing trains once."""

import argparse
import io
from pathlib import Path

import pytest
from rich.console import Console

from kan_md.runs.record import Record, write_record
from results.experiments import training


@pytest.fixture
def data(tmp_path):
    """A file whose content alone matters here."""
    (tmp_path / "frames.xyz").write_text("content")
    return tmp_path / "frames.xyz"


def configuration(data, seed):
    return {
        "data": {"train": str(data), "split": {"train": 2, "val": 1}},
        "model": {"backbone": "allegro", "r_max": 4.0},
        "readout": {"kind": "kan"},
        "training": {"epochs": 1, "seed": seed},
    }


def test_cases_are_trained_by_the_store_and_finished_one_by_one(tmp_path, data, monkeypatch):
    """One is there, one trains, one fails; a second call tries the failed one alone again."""
    trained = []

    def run_missing(runs, store, *, jobs, threads, console):
        assert (jobs, threads) == (2, 1)
        for run in runs:
            trained.append(run.name)
            if run.name == "bad":
                store.keep_failure(run, "diverged")
                continue
            found = Record(
                name=run.name,
                id=run.id,
                configuration=run.configuration,
                data=run.data,
                results={"errors": {"test": {"forces_mae": 0.1}}, "seconds": 3.0},
            )
            write_record(found, store.records)
            folder = store.folder(run)
            folder.mkdir(parents=True)
            (folder / "model.pth").touch()
            (folder / "metrics.json").write_text('{"errors": {}}')

    monkeypatch.setattr(training, "run_missing", run_missing)
    cases = {name: configuration(data, seed) for seed, name in enumerate(("old", "new", "bad"))}
    stored = {"old": {"errors": "kept as they are"}}
    kept: list[set[str]] = []

    def fill():
        training.fill_missing(
            cases,
            stored,
            lambda key, model, record: {"errors": record.results["errors"], "of": model.name},
            keep=lambda: kept.append(set(stored)),
            options=argparse.Namespace(work=tmp_path / "work", jobs=2),
            console=Console(file=io.StringIO()),
        )

    fill()
    assert trained == ["new", "bad"]
    assert stored == {
        "old": {"errors": "kept as they are"},
        "new": {"errors": {"test": {"forces_mae": 0.1}}, "of": "model.pth"},
        "bad": {"error": "diverged"},
    }
    assert kept == [{"old", "new"}, {"old", "new", "bad"}]
    fill()
    assert trained == ["new", "bad", "bad"]


def test_a_model_is_deployed_once(tmp_path, monkeypatch):
    asked = []

    def run_kan_md(*words, what):
        asked.append(what)
        Path(words[words.index("--output") + 1]).touch()

    monkeypatch.setattr(training, "run_kan_md", run_kan_md)
    for _ in range(2):
        file = training.deployed(tmp_path / "model.pth", what="a model")
        assert file == tmp_path / "model.deployed.pth"
    assert asked == ["a model"]
