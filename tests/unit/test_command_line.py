"""Bad input at the command line: one line, status 2, no traceback, nothing written or changed.

Ctrl-C is status 130.
"""

import importlib
import os
import shutil
import signal
import time

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.cli.main import main
from kan_md.interrupt import interrupts_between_imports

# arguments -> part of the message; {names} are files of the fixture
CASES = {
    "deploy {missing}": "model file not found",
    "deploy {folder}": "a model is a file, not a folder",
    "deploy {text}": "no torch file; give the model.pth",
    "deploy {empty}": "an empty file",
    "deploy {truncated}": "a truncated file; copy it again",
    "deploy {tampered}": "not a whole model.pth",
    "deploy {deployed}": "a compiled (TorchScript) file; give the model.pth that it was deployed",
    "deploy {model} --device tpu": "unknown device, got tpu; allowed: cpu, cuda",
    "deploy {model} --device cuda:99": "CUDA device here",
    "deploy {model} --tf32": "TF32 is for float32 models on a GPU, got float64 on cpu",
    "deploy {model} --passes none,kan_collapse": "none stands alone in --passes",
    "deploy {model} --passes defualt": "did you mean default?",
    "deploy {model} -o {data}": "not deployed by kan-md, or is damaged; choose another -o or give",
    "deploy {model} -o {folder}": "got a folder of that name; choose another name",
    "deploy {model} --bound -1": "allowed: 0 <= bound < 1; change --bound",
    "deploy {model} -o {text}/x.pth": "got a file where a folder is meant; choose another place",
    "inspect {missing}": "model file not found",
    "inspect {text}": "no torch file",
    "inspect {model} --data {data}": "--data has no effect without --plot",
    "inspect {model} --prune": "--prune needs labelled structures, got no --data",
    "inspect {model} --plot new.foo": "ending of the figure's name, got new.foo",
    "inspect {model} --plot new.png --data {missing}": "data file not found",
    "inspect {model} --plot new.png --data {silver}": "got Ag; allowed: Cu, Au",
    "inspect {deployed} --plot new.png": "give the model.pth that it was deployed",
    "evaluate {missing} {data}": "model file not found",
    "evaluate {model} {missing}": "data file not found",
    "evaluate {model} {empty}": "no structures",
    "evaluate {model} {text}": "cannot be read",
    "evaluate {model} {unlabelled}": "data without energy, forces, stress",
    "evaluate {model} {silver}": "got Ag; allowed: Cu, Au",
    "evaluate {model} {data} --key force=F": "--key, got force",
    "evaluate {model} {data} --device tpu": "unknown device, got tpu",
    "evaluate {model} {data} -o {text}": "output folder, got the file",
    "evaluate {model} {data} -o {text}/sub": "missing or not writable",
    "evaluate {model} {data} -o /proc/sub": "missing or not writable",
    "evaluate {model} {data} --key energy=E": "got E, which no structure has; allowed: ",
    "evaluate {model} {text_energy}": "energy of text_energy.xyz, frame 0, got '-1 eV'",
    "evaluate {model} {data} --key weight=my_wieght": "got my_wieght, which no structure has",
    "evaluate {model} {collapsed}": "sit on one another, got numbers 0 and 1 at a distance of 0 Å",
    "predict {missing} {data}": "model file not found",
    "predict {model} {data} -o {folder} --overwrite": "got a folder",
    "predict {model} {data} -o {data}": "got an existing file",
    "refit {missing} {data}": "model file not found",
    "refit {deployed} {data}": "a compiled (TorchScript) file",
    "refit {model} {missing}": "data file not found",
    "refit {model} {silver}": "structures to fit and to judge by, got 1; allowed: at least 2",
    "refit {model} {silver} --val {data}": "got Ag; allowed: Cu, Au",
    "refit {model} {unlabelled} --val {data}": "to fit have no labels that are learned",
    "refit {model} {data} --prior -1": "prior, got -1",
    "refit {model} {data} -o {text}": "got an existing file",
    "convert {missing} --trust": "model file not found",
    "convert {text}": "no model that can be converted",
    "convert {text} --trust": "a text file",
    "convert {model} --trust": "it needs no conversion",
    "convert {model} --trust -o {text}": "got an existing file",
    "init {missing} --structure {data}": "configuration file not found",
    "init {text} --structure {data}": "must hold a mapping",
    "init {config} --structure {data} --seed x -o new.pth": "Invalid value for '--seed'",
    "init {fresh} --structure {data} -o {model}": "got an existing file",
    "init {fresh} --structure {nan_positions} -o new.pth": "must be finite",
    "init": "got neither a file nor --size; allowed: one of them",
    "init {config} --size tiny --structure {data}": "got a file and --size",
    "init --size tiny": "add --structure cell.xyz, or --config config.yaml",
    "init --size huge --structure {data}": "Invalid value for '--size'",
    "init --size tiny --config {config}": "got an existing file",
    "init --size tiny --config new.yaml --seed 1": "--seed has no effect with --config",
    "init {config} --config new.yaml": "--config has no effect without --size",
    "init {fresh} --structure {data} --data {data}": "--data has no effect without --config",
    "init {fresh} --structure {data} --seed -1 -o new.pth": "seed must be >= 0, got -1",
    "inputs {text}": "got a file where a folder is meant",
    "lmp -n 0 -in {text}": "-n, got 0; allowed: 1 or more MPI ranks",
    "data check {missing}": "data file not found",
    "data check {text_energy}": "energy of text_energy.xyz, frame 0, got '-1 eV'",
    "data check {data} -o {text}": "ending of the figure's name, got text.pth; allowed: ",
    "data check {data} -o {folder}/x.png --r-max 0": "--r-max, got 0",
    "data check {data} --key energy=E": "got E, which no structure has; allowed: ",
    "data ag-vacancy {text}/x.xyz": "missing or not writable",
    "data ag-vacancy {data}": "--overwrite",
    "data ag-vacancy /proc/x.xyz": "missing or not writable",
    "data charge-transfer new.xyz --seed -1": "seed must be >= 0, got -1",
    "train {missing}": "configuration file not found",
    "train {text}": "must hold a mapping",
    "train {fresh}": "got backbone; allowed: data, model, readout, targets, training; did you mean",
    "train {config} -o {text}": "output folder, got the file",
    "train {config} -o {text}/run": "a place that cannot be written",
    "train {config} -o /proc/run": "a place that cannot be written",
    "train {config} --set training.epochs=[": "is no YAML",
    "train {config} --set model.num_scalar_features=-8": "a whole number >= 1",
    "train {config} --set model.type_names=[Cu,Au,Xx]": "must be an element symbol",
    "train {config} --set training.batch_edges=5": "largest structure, data.xyz, frame ",
    "train {config} --set training.devices=4097": "training.devices on cpu, got 4097; allowed: 1",
    "train {config} --set training.num_nodes=2": "start with `srun kan-md train ...`",
    "train {config} --set training.device=cuda": "got training.device: cuda; allowed: auto, cpu",
    "train {config} --set data.max_force=1e-9": "too few structures",
    "benchmark {deployed} --temperature nan": "temperature must be > 0 and finite, got nan",
    "benchmark {deployed} --timestep 0": "timestep must be > 0 and finite, got 0",
    "benchmark {deployed} --structure {nan_positions}": "must be finite",
    "benchmark {deployed} --pair-style eam": "Invalid value for '--pair-style'",
    "demo --steps 0 -o new": "steps must be at least 1, got 0",
    "demo --train-time 10x -o new": "got '10x'; set --train-time",
    "demo --train-time 0s -o new": "must be > 0 s, got 0s",
    "reproduce table1": "got table1; allowed: table2, table3",
    "reproduce --seeds x": "got 'x'; allowed: whole numbers >= 0; set --seeds",
    "reproduce --budget 10x": "got '10x'; set --budget",
    "reproduce table2 --row Nope -o new": "row of the tables, got Nope; allowed: MLP, ",
    "reproduce --data {missing} -o new": "change --data, or leave it out",
    "infrared {text} -o new.csv": "ending of the figure's name, got new.csv; allowed: ",
    "infrared {text} -o new.png": "must hold '# volume V'",
    "data": "Missing command; see `kan-md data --help`",
    "inspekt {model}": "Did you mean 'inspect'",
    "inspect": "Missing argument 'FILE'; see `kan-md inspect --help`",
    "inspect {model} --jsn": "No such option: --jsn",
    "deploy {model} --bound x": "Invalid value for '--bound'",
    "lmp --ranks 0 -in {text}": "Invalid value for '--ranks'",
}  # fmt: skip


@pytest.fixture
def inputs(tmp_path, tiny_checkpoint, deployed, alloy_frames, ag_frames):
    """Good and bad files by name, in a folder of their own."""
    names = ("missing", "folder", "text", "empty", "truncated", "tampered", "model", "deployed")
    data = ("data", "unlabelled", "text_energy", "silver", "nan_positions", "collapsed")
    paths = {name: tmp_path / f"{name}.pth" for name in names}
    paths |= {name: tmp_path / f"{name}.xyz" for name in data}
    paths["folder"].mkdir()
    paths["text"].write_text("units metal\n")
    paths["empty"].touch()
    source = tiny_checkpoint("allegro", type_names=("Cu", "Au"))
    shutil.copy(source, paths["model"])
    shutil.copy(deployed("allegro", type_names=("Cu", "Au")), paths["deployed"])
    content = bytearray(source.read_bytes())
    paths["truncated"].write_bytes(content[: len(content) // 2])
    content[len(content) // 2] ^= 0xFF
    paths["tampered"].write_bytes(content)
    bare = [atoms.copy() for atoms in alloy_frames]
    ase.io.write(paths["data"], alloy_frames)
    ase.io.write(paths["unlabelled"], bare)
    paths["text_energy"].write_text('1\nenergy="-1 eV"\nCu 0 0 0\n')
    ase.io.write(paths["silver"], ag_frames[:1])
    labels = {"energy": 0.0, "forces": np.zeros((len(bare[0]), 3))}
    broken = {name: bare[0].copy() for name in ("nan_positions", "collapsed")}
    broken["nan_positions"].positions[0] = np.nan
    broken["collapsed"].positions[1] = broken["collapsed"].positions[0]
    for name, atoms in broken.items():
        atoms.calc = SinglePointCalculator(atoms, **labels)
        ase.io.write(paths[name], atoms)
    model = {"backbone": "allegro", "r_max": 3.2, "l_max": 1, "num_layers": 1}
    config = {"data": {"train": str(paths["data"])}, "model": model, "training": {"epochs": 1}}
    for name, content in (("fresh", model), ("config", config)):
        paths[name] = tmp_path / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump(content))
    return paths


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("line", CASES)
def test_bad_input_is_one_line_and_changes_nothing(line, inputs, tmp_path, capsys, monkeypatch):
    if "cuda:99" in line and torch.cuda.device_count() > 99:
        pytest.skip("there is such a device")
    if "device=cuda" in line and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([word.format(**inputs) for word in line.split()])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert CASES[line] in error
    assert error.startswith("kan-md: error: ") and error.count("\n") == 1
    assert "Traceback" not in error
    assert snapshot(tmp_path) == before


def test_ctrl_c_within_an_import_ends_the_command_after_it(tmp_path, monkeypatch):
    """The import would have dropped the exception, and the command would have gone on."""
    drops = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept: pass\n"
    (tmp_path / "drops_interrupts.py").write_text(drops)
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        module = importlib.import_module("drops_interrupts")
        time.sleep(10)
    assert module.__file__
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_status_130_and_no_traceback(monkeypatch, capsys):
    def interrupted(path):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("kan_md_deploy.inspect.describe_file", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["inspect", "model.pth"])
    assert end.value.code == 130
    assert capsys.readouterr().err == ""
