"""The search by readout: allowed cases in a fair order, numbers that are those of the records."""

import pytest

from kan_md.config import parse_config
from kan_md.runs.record import Record
from kan_md.runs.statistics import estimate, paired_change
from results.experiments import search
from results.experiments.data_sets import SETS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    for one in SETS.values():
        for name in filter(None, (one.train, one.test)):
            (path / name).write_text(name)
    return path


def test_every_case_is_an_allowed_configuration_and_no_run_is_there_twice(folder):
    runs = search.runs(folder)
    assert len(runs) == len(list(search.cases())) == len({run.id for run in runs.values()})
    for run in runs.values():
        split = run.config.data.split
        assert split.method == "block"


def test_first_runs_compare_all_readouts_of_one_seed():
    readouts = search.READOUTS
    first = list(search.cases())[: len(readouts)]
    assert [(row.label, one.name, seed) for row, one, seed in first] == [
        (row.label, "HfO2", 1) for row in readouts
    ]


def test_rows_of_a_wave_differ_in_nothing_but_the_readout(folder):
    contents = [search.configuration(row, SETS["Ag"], 1, folder) for row in search.READOUTS]
    for content in contents:
        parse_config(content)
        del content["readout"]
    assert all(content == contents[0] for content in contents)


def record(seed, energy, forces):
    errors = {"energy_mae": energy, "forces_mae": forces, "stress_mae": None}
    return Record(
        name="x",
        id="x",
        configuration={},
        data={},
        results={
            "errors": {"val": errors, "test": errors},
            "parameters": 1000,
            "seconds": 60.0,
            "epochs": 60,
        },
    )


def test_page_pairs_seeds_and_says_what_is_missing(tmp_path):
    found = {
        ("linear", "Ag", 1): record(1, 2e-3, 20e-3),
        ("linear", "Ag", 2): record(2, 2e-3, 40e-3),
        ("MLP 16", "Ag", 1): record(1, 1e-3, 30e-3),
        ("KAN", "Ag", 1): record(1, 1e-3, 15e-3),
        ("KAN", "Ag", 2): record(2, 1e-3, 32e-3),
        ("MLP 16, AdamW, divided by their number", "Ag", 1): record(1, 1e-3, 1e-3),
        ("MLP 64", "Ag", 1): Record(name="y", id="y", configuration={}, data={}, failure="NaN"),
    }
    rows = {row[0]: row for row in search.table(found, "Ag")}
    kan = rows["KAN"]
    assert (
        rows["MLP 16, AdamW, divided by their number"][6:9] == ["–"] * 3
    )  # another training compares no readouts
    assert kan[2] == "2"
    assert kan[4] == "23.5 ± 8.5"
    # -25 % and -20 %: the mean and its standard error, far smaller than those of the two means
    assert kan[6] == "-22.5 ± 2.5 %"
    assert kan[8] == "-50.0 %"  # one seed in common with the MLP, so no error
    text = search.page(found, command="x")
    assert f"6 of {len(list(search.cases()))} runs are there" in text
    assert "Failed: y: NaN" in text
    search.save_figure(found, tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 1000


def test_standard_errors_are_those_of_the_mean():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = [1.0, 2.0, 4.0, 4.5]
    assert estimate(values).error == pytest.approx(scipy_stats.sem(values))
    ours, theirs = {1: 1.0, 2: 2.2, 5: 9.0}, {1: 2.0, 2: 4.0, 3: 1.0}
    change = paired_change(ours, theirs)
    assert (change.mean, change.number) == (pytest.approx(-0.475), 2)
    assert estimate([]) is None
    assert estimate([3.0]).error is None


def test_missing_folder_is_told(tmp_path, capsys):
    assert search.main(["--data", str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
    assert "set --data or KAN_MD_DATA" in " ".join(capsys.readouterr().err.split())
