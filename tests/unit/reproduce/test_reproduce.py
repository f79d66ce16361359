"""The paper's tables: rows that can be run, an honest verdict, a report of what is there."""

import json

import pytest

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.reproduce import data, study
from kan_md.reproduce.data import Source, find_data
from kan_md.reproduce.plan import SHORTEST, Plan, chosen_rows, share_of_budget
from kan_md.reproduce.ranking import judge
from kan_md.reproduce.tables import all_tables, choose_tables
from kan_md.runs.record import Record, write_record

RUN_ROWS = [
    (table.name, row.label) for table in all_tables().values() for row in chosen_rows(table, [])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in the paper's layout; nothing reads the files here."""
    path = tmp_path_factory.mktemp("data")
    for candidates in data.SYSTEMS.values():
        for name in filter(None, (candidates[0].train, candidates[0].test)):
            (path / name).write_text(name)
    return path


def row_of(table, label):
    return next(row for row in all_tables()[table].rows if row.label == label)


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize("seconds", [None, 90.0])
def test_every_row_is_an_allowed_configuration_with_blocks_and_a_test_set(size, seconds, folder):
    plan = Plan(seeds=(1,), size=size, seconds=seconds, device="cpu")
    for name, label in RUN_ROWS:
        table = all_tables()[name]
        source = find_data(table.system, folder, folder, None)
        config = plan.run(table, row_of(name, label), 7, source).config
        assert config.training.seed == 7
        assert config.data.split.method == "block"
        assert config.data.test or config.data.split.test > 0
        assert config.training.max_time == seconds
        assert (config.training.epochs is None) == (seconds is not None)


@pytest.mark.parametrize("table", all_tables().values(), ids=lambda table: table.name)
def test_rows_of_a_table_differ_in_the_output_block_alone(table, folder):
    plan = Plan(seeds=(1,), size="small", seconds=None, device="cpu")
    contents = [plan.content(row, Source({}, "")) for row in chosen_rows(table, [])]
    for content in contents:
        del content["readout"]
    assert all(content == contents[0] for content in contents)


def test_every_number_of_the_paper_has_its_column():
    for table in all_tables().values():
        assert table.compare.keys() <= set(table.columns)
        for row in table.rows:
            assert len(row.paper) in (0, len(table.columns)), f"{table.name} {row.label}"


def test_tables_2_and_3_share_the_run_of_the_mlp(folder):
    plan = Plan(seeds=(1,), size="small", seconds=None, device="cpu")
    source = find_data("silver", folder, folder, None)
    ids = {plan.run(all_tables()[t], row_of(t, "MLP"), 1, source).id for t in ("table2", "table3")}
    assert len(ids) == 1


def test_given_epochs_stand_in_the_place_of_the_files(folder):
    plan = Plan(seeds=(1,), size="small", seconds=None, epochs=12, device="cpu")
    source = find_data("carbon", folder, folder, None)
    training = plan.run(all_tables()["table7"], row_of("table7", "KAN"), 1, source).config.training
    assert (training.epochs, training.max_time, training.schedule.name) == (12, None, "cosine")
    assert training.stages == []


# By force on validation the paper has: output = all (0.014) < two-body + latent < MLP.
def values(**means):
    names = {"embedding": "two-body + latent"}
    noise = {1: 0.97, 2: 1.0, 3: 1.03}
    return {
        names.get(name, name): {seed: mean * factor for seed, factor in noise.items()}
        for name, mean in means.items()
    }


def test_same_order_beyond_the_noise_is_a_yes():
    found = values(output=1.0, all=1.1, embedding=1.2, MLP=1.3)
    verdict = judge(all_tables()["table3"], "val F (eV/Å)", "test", found)
    assert verdict.answer == "yes"
    assert len(verdict.same) == 5  # of six, one is a tie in the paper
    assert verdict.best == (["output", "all"], "output")


def test_reversed_order_is_a_no_and_says_which():
    found = values(output=1.3, all=1.25, embedding=1.2, MLP=1.0)
    verdict = judge(all_tables()["table3"], "val F (eV/Å)", "test", found)
    assert verdict.answer == "no"
    assert "output is not better than MLP" in verdict.text


def test_difference_within_the_paired_noise_or_of_one_seed_decides_nothing():
    table = all_tables()["table3"]
    found = {"output": {1: 1.0, 2: 1.3, 3: 0.9}, "MLP": {1: 1.1, 2: 1.0, 3: 1.0}}
    assert judge(table, "val F (eV/Å)", "val", found).answer == "not decided"
    found = {"output": {1: 0.5}, "MLP": {1: 1.0}}
    assert judge(table, "val F (eV/Å)", "val", found).answer == "not decided"
    assert judge(table, "val F (eV/Å)", "val", {}).answer == "not run"


def test_budget_is_shared_evenly_but_no_run_is_mere_start():
    assert share_of_budget(None, 3, 1) is None
    assert share_of_budget(1800.0, 9, 1) == 200.0
    assert share_of_budget(1800.0, 9, 2) == 400.0
    assert share_of_budget(1800.0, 84, 1) == SHORTEST


def test_without_data_the_sets_are_made_here(tmp_path, monkeypatch):
    from rich.console import Console

    made = []
    monkeypatch.setattr(data, "_make", lambda command, path: made.append((command, path.name)))
    source = find_data("quartz", None, tmp_path, Console(quiet=True))
    assert made == [("charge-transfer", "charge-transfer.xyz")]
    assert "for want of quartz" in source.about


def test_unknown_table_is_told():
    with pytest.raises(KanMdError, match=r"got table1; allowed: table2, .*; name one or more"):
        choose_tables(["table1"])


def test_report_is_made_of_what_is_there(folder, tmp_path, monkeypatch, capsys):
    """The command line with trainings that only write records: seed 2 of the MLP fails."""

    def fake(runs, store, **_):
        for run in runs:
            kind = 1.0 if "MLP" in run.name else 0.8
            seed = run.config.training.seed
            errors = {
                "forces_mae": 0.01 * kind * seed,
                "energy_mae": 0.001 * kind * seed,
                "energy_per_structure_mae": 0.07 * kind * seed * (1 + 0.01 * seed * kind),
            }
            results = {
                "errors": {part: errors for part in ("train", "val", "test")},
                "parameters": 1234,
                "epochs": 10,
                "seconds": 20.0,
            }
            failed = "MLP" in run.name and seed == 2
            outcome = {"failure": "out of memory"} if failed else {"results": results}
            record = Record(name=run.name, id=run.id, configuration={}, data={}, **outcome)
            write_record(record, store.records)

    monkeypatch.setattr(study, "run_missing", fake)
    output = tmp_path / "out"
    words = ["reproduce", "table3", "--data", folder, "--row", "MLP", "--row", "output"]
    words += ["--seeds", "1", "2", "3", "--budget", "30m", "-o", output]
    words += ["--report", tmp_path / "page.md"]
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    assert end.value.code == 0
    assert "report: " in capsys.readouterr().out
    text = (tmp_path / "page.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| output"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:6] == ["0.014", "0.025", "0.014", "0.022", "9h40m"]
    assert cells[6:9] == ["3", "1,234", "16.0 ± 4.6"]
    assert "-20.0 ± 0.0 %" in cells  # two pairs, of seeds 1 and 3
    assert "![table3](out/table3.png)" in text
    assert "Failed: table3-MLP-2: out of memory" in text
    assert "Data: the user's Ag.xyz." in text
    assert "Ranking by val F (eV/Å) (test): **not decided**: of 5 pairs" in text
    rows = json.loads((tmp_path / "page.json").read_text())["tables"]["table3"]["rows"]
    assert rows["output"]["errors"]["test"]["forces_mae"]["mean"] == pytest.approx(0.016)
    assert (output / "table3.png").stat().st_size > 1000
    assert len(list((output / "configurations").glob("*.yaml"))) == 6
