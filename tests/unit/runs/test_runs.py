"""Runs of a study: done once, kept with their errors, gone on with, failed without harm."""

import copy
import io
import json
import shutil
import sys
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from rich.console import Console

from kan_md import children
from kan_md.config import parse_config
from kan_md.errors import KanMdError
from kan_md.runs import Run, Store, run_missing
from kan_md.runs.identity import canonical, digest, is_same
from kan_md.runs.record import write_record
from kan_md.train.folder import RESULT_FILE

CONTENT = {
    "data": {"train": "alloy.xyz", "split": {"method": "block", "train": 6, "val": 3, "test": 3}},
    "model": {
        "backbone": "allegro",
        "r_max": 3.2,
        "l_max": 1,
        "num_layers": 1,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_width": 8,
    },
    "readout": {"kind": "kan"},
    "training": {"optimizer": {"lr": 0.01}, "batch_size": 2, "epochs": 2, "seed": 1},
}


def changed(**settings):
    """The content with other values: ``training__epochs=3``."""
    content = copy.deepcopy(CONTENT)
    for name, value in settings.items():
        section, key = name.split("__")
        content[section][key] = value
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory, alloy_frames):
    path = tmp_path_factory.mktemp("runs")
    ase.io.write(path / "alloy.xyz", alloy_frames * 2)
    return path


@pytest.fixture(scope="module")
def store(folder):
    return Store(folder / "records", folder / "work")


@pytest.fixture(scope="module")
def study(folder, store):
    """A run that cannot be done (it keeps no structure) before one that can; and what was said."""
    runs = [
        Run("no data", changed(data__max_force=1e-6), folder),
        Run("KAN 0.5 1", CONTENT, folder),
    ]
    text = io.StringIO()
    records = run_missing(runs, store, threads=1, console=Console(file=text, width=200))
    return runs, records, text.getvalue()


def test_record_has_the_errors_of_the_model_that_is_kept(study, store, folder):
    from kan_md import KANCalculator

    (_, run), (_, record), _ = study
    frames = ase.io.read(folder / "alloy.xyz", ":")
    test = [frames[i] for i in (3, 7, 11)]  # the last of each of three blocks of four
    calculator = KANCalculator(store.model(run))
    wrong = []
    for atoms in test:
        labels = atoms.get_forces()
        atoms.calc = calculator
        wrong.append(atoms.get_forces() - labels)
    mae = np.abs(np.concatenate(wrong)).mean()
    assert record.error("forces_mae") == pytest.approx(mae, rel=1e-4)
    assert record.results["structures"] == {"train": 6, "val": 3, "test": 3}
    assert len(record.curve["val_loss"]) == record.results["epochs"] == 2


def test_failed_run_is_kept_with_its_reason_and_the_next_one_goes_on(study):
    _, (failed, done), text = study
    assert not failed.is_done
    assert done.is_done
    assert failed.failure.startswith("too few structures to divide")
    assert f"no data: failed: {failed.failure}" in text


def test_files_of_a_run_carry_its_whole_name(study, store):
    run = study[0][1]
    names = {path.name for path in store.work.glob(f"*{run.id}*")}
    whole = f"KAN-0.5-1-{run.id}"
    assert {whole, f"{whole}.yaml", f"{whole}.output.txt", f"{whole}.errors.txt"} <= names


def test_record_names_no_place_of_the_machine(study, store, folder):
    for path in store.records.glob("*.json"):
        assert str(folder.parent) not in path.read_text()
        assert json.loads(path.read_text())["data"].keys() == {"alloy.xyz"}


def test_what_is_done_is_not_done_again(study, store, folder, monkeypatch):
    _, run = study[0]
    monkeypatch.setattr(children, "child", lambda *_, **__: pytest.fail("a run was started"))
    (record,) = run_missing([Run("another name", run.content, folder)], store)
    assert record == study[1][1]


def test_one_configuration_under_two_names_is_trained_once(study, store, folder):
    """Also where the first name's run failed: what succeeded counts."""
    run = study[0][1]
    failed = store.keep_failure(Run("Another", run.content, folder), "out of memory")
    assert not failed.is_done
    assert store.find(run) == study[1][1]


def test_model_of_a_run_lies_where_its_record_says(study, store, folder):
    """Under another name, and by a version that knew fewer keys, so that its digest is another."""
    _, run = study[0]
    assert store.model(Run("another name", run.content, folder)) == store.model(run)
    older = Store(folder / "older", folder / "work")
    configuration = copy.deepcopy(study[1][1].configuration)
    del configuration["training"]["seed"]
    record = replace(study[1][1], name="old", id="0" * 12, configuration=configuration)
    write_record(record, older.records)
    shutil.copytree(store.folder(run), older.work / f"old-{'0' * 12}")
    default = changed(training__seed=0)
    del default["training"]["seed"]
    assert older.model(Run("new", default, folder)) == older.work / f"old-{'0' * 12}" / "model.pth"


def test_nothing_is_started_without_budget(store, folder, monkeypatch):
    monkeypatch.setattr(children, "child", lambda *_, **__: pytest.fail("a run was started"))
    run = Run("late", changed(training__seed=9), folder)
    assert run_missing([run], store, budget=0.0, console=Console(file=io.StringIO())) == []


def test_run_that_the_budget_ends_is_no_failure_even_if_it_had_to_be_killed(
    tmp_path, folder, monkeypatch
):
    monkeypatch.setattr(children, "GRACE", 0.0)
    text = io.StringIO()
    store = Store(tmp_path / "records", tmp_path / "work")
    run = Run("long", changed(training__epochs=10_000), folder)
    assert run_missing([run], store, budget=0.1, console=Console(file=text, width=200)) == []
    assert "long: interrupted, goes on at the next call" in text.getvalue()
    assert "the budget is used up; the same command goes on" in text.getvalue()


def test_run_that_stops_without_results_is_interrupted(tmp_path, folder, monkeypatch):
    """A training that is told to stop may end with status 0, too."""
    start = children.child
    program = [sys.executable, "-c", "pass"]
    monkeypatch.setattr(children, "child", lambda _, **options: start(program, **options))
    text = io.StringIO()
    store = Store(tmp_path / "records", tmp_path / "work")
    store.folder(run := Run("short", CONTENT, folder)).mkdir(parents=True)
    assert run_missing([run], store, console=Console(file=text, width=200)) == []
    assert "short: interrupted, goes on at the next call" in text.getvalue()


def test_interrupted_run_goes_on_where_it_was(study, store, folder):
    """A longer run takes up the epochs of a shorter one whose end was lost."""
    done, longer = study[0][1], Run("longer", changed(training__epochs=4), folder)
    shutil.copytree(store.folder(done), store.folder(longer))
    (store.folder(longer) / RESULT_FILE).unlink()
    (record,) = run_missing([longer], store, threads=1, console=Console(file=io.StringIO()))
    before = study[1][1].curve
    assert record.curve["epoch"] == [0, 1, 2, 3]
    assert record.curve["seconds"][:2] == before["seconds"]
    assert record.curve["val_loss"][:2] == before["val_loss"]


def test_run_of_the_command_line_is_adopted_as_the_run_it_is(study, store, tmp_path):
    run, record = study[0][1], study[1][1]
    other = Store(tmp_path, tmp_path / "work")
    adopted = other.adopt(store.folder(run), "by hand")
    assert adopted.id == record.id
    assert adopted.results == record.results
    assert other.find(run) == adopted


def test_run_that_another_process_trains_is_left_to_it(store, folder):
    from kan_md.train.folder_lock import Claim

    run = Run("elsewhere", changed(training__seed=7), folder)
    text = io.StringIO()
    with Claim(store.folder(run)) as claim:
        claim.take(make=True)
        assert run_missing([run], store, console=Console(file=text, width=200)) == []
    assert "another process is training it" in text.getvalue()


@pytest.mark.parametrize(
    "settings",
    [
        {"training__device": "cpu"},
        {"training__threads": 2},
        {"data__graph_memory": 1.0},
        {"training__loss": "balanced"},  # the default
    ],
)
def test_place_and_spelling_do_not_make_another_run(folder, settings):
    assert Run("a", changed(**settings), folder).id == Run("b", CONTENT, folder).id


def test_same_data_elsewhere_are_the_same_run_and_others_are_not(folder, tmp_path, alloy_frames):
    shutil.copy(folder / "alloy.xyz", tmp_path / "renamed.xyz")
    ase.io.write(tmp_path / "fewer.xyz", alloy_frames)
    wanted = Run("a", CONTENT, folder).id
    assert Run("b", changed(data__train="renamed.xyz"), tmp_path).id == wanted
    assert Run("c", changed(data__train="fewer.xyz"), tmp_path).id != wanted
    assert Run("d", changed(training__seed=2), folder).id != wanted


def test_record_of_a_version_with_fewer_keys_counts_where_the_new_ones_are_defaults(folder):
    content = changed()
    content["data"]["train"] = str(folder / "alloy.xyz")
    config = parse_config(content)
    new, _ = canonical(config)
    old = copy.deepcopy(new)
    del old["training"]["gradient_clip"]
    assert digest(old) != digest(new)
    assert is_same(old, new, config)
    clipped = parse_config({**content, "training": {**content["training"], "gradient_clip": 1.0}})
    assert not is_same(old, canonical(clipped)[0], clipped)


def test_record_of_a_version_whose_grids_stayed_is_none_of_grids_that_follow(folder):
    def of(fit_grid):
        config = parse_config({**content, "readout": {"kind": "kan", "fit_grid": fit_grid}})
        return canonical(config)[0], config

    content = changed()
    content["data"]["train"] = str(folder / "alloy.xyz")
    stayed, config = of({"steps": [0, 100], "every": None, "until": 0.8})
    old = copy.deepcopy(stayed)
    for key in ("every", "until"):
        del old["readout"]["fit_grid"][key]
    assert is_same(old, stayed, config)
    assert not is_same(old, *of({"steps": [0, 100]}))


def test_missing_data_are_told_before_anything_runs(store, tmp_path):
    with pytest.raises(KanMdError, match=r"alloy\.xyz, got nothing"):
        run_missing([Run("a", CONTENT, tmp_path)], store)


def test_damaged_record_is_told_with_the_remedy(tmp_path, folder):
    run = Run("a", CONTENT, folder)
    (tmp_path / f"a-{run.id}.json").write_text("{")
    with pytest.raises(KanMdError, match="remove it, and the run is done again"):
        Store(tmp_path, tmp_path).find(run)
