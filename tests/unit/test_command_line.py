"""Bad input at the command line: one line, status 2, no traceback, nothing written or changed."""

import shutil

import ase.io
import pytest
import torch

from kan_md.cli.main import main

# arguments -> part of the message; {names} are files of the fixture
CASES = {
    "deploy {missing}": "model file not found",
    "deploy {folder}": "model file not found",
    "deploy {text}": "no torch file; give the model.pth",
    "deploy {empty}": "an empty file",
    "deploy {truncated}": "a truncated file; copy it again",
    "deploy {tampered}": "not a whole model.pth",
    "deploy {deployed}": "a compiled (TorchScript) file; give the model.pth that it was deployed",
    "deploy {model} --device tpu": "unknown device, got tpu; allowed: cpu, cuda",
    "deploy {model} --device cuda:99": "CUDA device here",
    "deploy {model} --tf32": "TF32 is for float32 models on a GPU, got float64 on cpu",
    "deploy {model} --bound -1": "allowed: 0 <= bound < 1; change --bound",
    "deploy {model} -o {text}/x.pth": "cannot write",
    "inspect {missing}": "model file not found",
    "inspect {text}": "no torch file",
    "evaluate {missing} {data}": "model file not found",
    "evaluate {model} {missing}": "data file not found",
    "evaluate {model} {empty}": "no structures",
    "evaluate {model} {text}": "cannot be read",
    "evaluate {model} {unlabelled}": "data without energy, forces, stress",
    "evaluate {model} {mixed}": "mixed labels",
    "evaluate {model} {silver}": "got Ag; allowed: Cu, Au",
    "evaluate {model} {data} --key force=F": "--key, got force",
    "evaluate {model} {data} --device tpu": "unknown device, got tpu",
    "evaluate {model} {data} -o {text}": "output folder, got the file",
    "evaluate {model} {data} -o {text}/sub": "missing or not writable",
    "predict {missing} {data}": "model file not found",
    "convert {missing} --trust": "model file not found",
    "convert {text}": "add --trust",
    "convert {text} --trust": "cannot be unpickled",
    "convert {model} --trust": "not a MACE model",
    "init {missing} --structure {data}": "configuration file not found",
    "init {text} --structure {data}": "must hold a mapping",
    "inputs {text}": "output folder must be writable",
    "lmp -n 0 -in {text}": "-n, got 0; allowed: 1 or more MPI ranks",
    "data ag-vacancy {text}/x.xyz": "missing or not writable",
    "data ag-vacancy {data}": "--overwrite",
    "train {missing}": "configuration file not found",
    "train {text}": "must hold a mapping",
}  # fmt: skip


@pytest.fixture
def inputs(tmp_path, tiny_checkpoint, deployed, alloy_frames, ag_frames):
    """Good and bad files by name, in a folder of their own."""
    names = ("missing", "folder", "text", "empty", "truncated", "tampered", "model", "deployed")
    data = ("data", "unlabelled", "mixed", "silver")
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
    ase.io.write(paths["mixed"], [alloy_frames[0], bare[1]])
    ase.io.write(paths["silver"], ag_frames[:1])
    return paths


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("line", CASES)
def test_bad_input_is_one_line_and_changes_nothing(line, inputs, tmp_path, capsys, monkeypatch):
    if "cuda:99" in line and torch.cuda.device_count() > 99:
        pytest.skip("there is such a device")
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
