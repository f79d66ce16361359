"""Every kind of file in every command: one line says what it is and which command takes it."""

import gzip
import io
import json
import pickle
import shutil
import sqlite3
import struct
import zipfile

import ase.io
import numpy as np
import pytest
import torch

from kan_md.benchmark.models import deployed_entry
from kan_md.calculator import KANCalculator, TensorCalculator
from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.file_kind import recognise, upstream_metadata, wrong_file
from kan_md_deploy import load_deployed


class Stranger:
    """A class of no library."""


def zipped(entries):
    """Content of a zip archive with these entries in one folder, as torch writes them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def scripted(name):
    """A TorchScript file of a class of that package."""
    module = torch.jit.script(torch.nn.Linear(1, 1))
    content = module.save_to_buffer()
    if name == "torch":
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {n.split("/", 1)[1]: archive.read(n) for n in archive.namelist()}
    return zipped(entries | {f"code/__torch__/{name}/modules/models.py": ""})


NEQUIP_METADATA = {
    "type_names": "Cu Au",
    "r_max": "4.0",
    "num_types": "2",
    "AOTI_DEVICE_KEY": "cpu",
}
LIGHTNING = {"pytorch-lightning_version": "2.6"}
NEQUIP_MODEL = {"model": {"_target_": "nequip.model.NequIPGNNModel"}}
KAN_MD_MODEL = {"loss": {"_target_": "kan_md.train.losses.TargetError"}}
HEADER = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()


def contents(tiny_checkpoint, deployed, mace_torch_model):
    """Name of the kind -> content of a file of it."""
    trained = tiny_checkpoint("nequip").read_bytes()
    database = sqlite3.connect(":memory:")
    database.execute("create table systems (id integer)")
    arrays = io.BytesIO()
    np.savez(arrays, R=np.zeros((1, 2, 3)))
    mace = mace_torch_model([8, 14])
    mace_state = {"model": {"interactions.0.a": torch.ones(1)}, "optimizer": {}, "lr_scheduler": {}}
    package = {"data/aotinductor/model/x.so": "", "archive_format": "pt2"}
    return {
        "trained": trained,
        "deployed": deployed("nequip").read_bytes(),
        "checkpoint": saved(LIGHTNING | {"hyper_parameters": KAN_MD_MODEL}),
        "nequip_checkpoint": saved(LIGHTNING | {"hyper_parameters": NEQUIP_MODEL}),
        "other_checkpoint": saved(LIGHTNING),
        "nequip_package": zipped(
            {".data/extern_modules": "torch", "model/package_metadata.txt": "", "model/a.pkl": ""}
        ),
        "nequip_compiled": zipped(
            package | {"data/aotinductor/model/x_metadata.json": json.dumps(NEQUIP_METADATA)}
        ),
        "mace": saved(mace),
        "mace_compiled": scripted("mace"),
        "mace_checkpoint": saved(mace_state),
        "torchscript": scripted("torch"),
        "package": zipped(package | {"data/aotinductor/model/x_metadata.json": "{}"}),
        "exported": zipped({"archive_format": "pt2", "models/model.json": "{}"}),
        "weights": saved({"layer.weight": torch.ones(2)}),
        "pickled": saved(Stranger()),
        "old_pickle": pickle.dumps({"a": 1}),
        "safetensors": struct.pack("<Q", len(HEADER)) + HEADER + b"\0\0\0\0",
        "npz": arrays.getvalue(),
        "zip": zipped({"word/document.xml": "<a/>"}),
        "compressed": gzip.compress(trained),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(50),
        "sqlite": database.serialize(),
        "structures": b"2\nProperties=species:S:1:pos:R:3\nH 0 0 0\nH 1 0 0\n",
        "configuration": b"data:\n  train: frames.xyz\nmodel: {backbone: mace}\n",
        "text": b"units metal\n",
        "binary": bytes(range(256)) * 20,
        "empty": b"",
        "truncated": trained[: len(trained) // 2],
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_checkpoint, deployed, mace_torch_model):
    folder = tmp_path_factory.mktemp("kinds")
    paths = {}
    for name, content in contents(tiny_checkpoint, deployed, mace_torch_model).items():
        paths[name] = folder / f"{name}.pth"
        paths[name].write_bytes(content)
    paths["folder"] = folder / "run"
    paths["folder"].mkdir()
    shutil.copy(paths["trained"], paths["folder"] / "model.pth")
    return paths


KINDS = [
    *("trained", "deployed", "checkpoint", "nequip_checkpoint", "other_checkpoint"),
    *("nequip_package", "nequip_compiled", "mace", "mace_compiled", "mace_checkpoint"),
    *("torchscript", "package", "exported", "weights", "pickled", "old_pickle", "safetensors"),
    *("npz", "zip", "compressed", "hdf5", "sqlite", "structures", "configuration", "text"),
    *("binary", "empty", "truncated", "folder"),
]


@pytest.mark.parametrize("name", KINDS)
def test_kind_is_recognised_by_content(files, name):
    assert recognise(files[name]).name == name


def test_missing_and_unreadable_files_are_kinds_too(tmp_path, monkeypatch):
    assert recognise(tmp_path / "none").name == "missing"
    (tmp_path / "secret").write_text("x")

    def denied(*_, **__):
        raise PermissionError(13, "no")

    monkeypatch.setattr("pathlib.Path.open", denied)
    assert recognise(tmp_path / "secret").name == "unreadable"


def test_flipped_byte_in_an_archive_is_damage(files, tmp_path):
    path = tmp_path / "model.pth"
    content = bytearray(files["trained"].read_bytes())
    with zipfile.ZipFile(files["trained"]) as archive:
        pickled = next(i for i in archive.infolist() if i.filename.endswith("data.pkl"))
    content[pickled.header_offset + 200] ^= 0xFF
    path.write_bytes(content)
    assert recognise(path).name == "damaged"
    with pytest.raises(KanMdError, match="a file with damaged content; get an intact copy"):
        load_checkpoint(path)


def test_text_may_end_within_a_character(tmp_path):
    path = tmp_path / "notes"
    path.write_text("x" * 4095 + "Å")  # the first 4096 bytes hold half of it
    assert recognise(path).name == "text"


# What else a message must say, by kind and command; every one says what the file is.
COMMANDS = {
    "deploy": lambda path, data: main(["deploy", path]),
    "evaluate": lambda path, data: main(["evaluate", path, data]),
    "predict": lambda path, data: main(["predict", path, data, "-o", f"{data}.new"]),
    "inspect": lambda path, data: main(["inspect", path]),
    "benchmark": lambda path, data: main(["benchmark", path]),
    "convert": lambda path, data: main(["convert", path, "--trust"]),
    "init_from": lambda path, data: load_checkpoint(path, wanted="source"),
    "KANCalculator": lambda path, data: KANCalculator(path),
    "TensorCalculator": lambda path, data: TensorCalculator(path),
    "load_deployed": lambda path, data: load_deployed(path),
    "deployed tensors": lambda path, data: load_deployed(path, kind="tensor"),
}
TAKEN = {
    "trained": {"deploy", "evaluate", "inspect", "init_from", "KANCalculator"},
    "deployed": {"evaluate", "inspect", "KANCalculator", "load_deployed", "benchmark"},
    "nequip_compiled": {"inspect"},
    "mace": {"convert"},
}
"""Commands that the kind is meant for."""
FROM_NEQUIP = "convert it with `kan-md convert {path}`, which writes model.pth"
CONVERT = "convert it with `kan-md convert {path} --trust`"
OLD = "run `kan-md convert` on the .model file"
SAYS = {
    "trained": {
        "predict": "holds another kind of model, got potential; allowed: tensor",
        "TensorCalculator": "potentials run through `kan-md evaluate` and KANCalculator",
        "benchmark": "run `kan-md deploy {path}`",
        "convert": "it needs no conversion: run `kan-md deploy {path}`",
        "load_deployed": "run `kan-md deploy {path}`",
    },
    "deployed": {
        "deploy": "give the model.pth that it was deployed from",
        "init_from": "training.init_from {path} is not a whole model.pth",
        "convert": "it runs as it is",
        "predict": "got potential; allowed: tensor",
        "TensorCalculator": "got potential; allowed: tensor",
        "deployed tensors": "potentials run through `kan-md evaluate`",
    },
    "checkpoint": dict.fromkeys(COMMANDS, "give the model.pth of its run"),
    "nequip_checkpoint": dict.fromkeys(COMMANDS, FROM_NEQUIP)
    | {"convert": "cannot be read as nequip's"},
    "nequip_package": dict.fromkeys(COMMANDS, FROM_NEQUIP)
    | {"convert": "cannot be read as nequip's"},
    "nequip_compiled": dict.fromkeys(COMMANDS, "it runs in LAMMPS by pair_style nequip or allegro")
    | {
        "init_from": "convert the best.ckpt or the .nequip.zip that it was made from",
        "convert": "convert the best.ckpt or the .nequip.zip that it was made from",
        "benchmark": "does not name its pair style",
    },
    "mace": dict.fromkeys(COMMANDS, CONVERT),
    "mace_compiled": dict.fromkeys(COMMANDS, OLD)
    | {"convert": "convert the .model file that it was made from"},
    "torchscript": {"convert": "got a compiled file (of mace_create_lammps_model"},
    "mace_checkpoint": dict.fromkeys(COMMANDS, OLD),
    "structures": {"evaluate": "give it as data after a model"},
    "configuration": dict.fromkeys(COMMANDS, "run `kan-md train {path}`"),
    "compressed": dict.fromkeys(COMMANDS, "unpack it first"),
    "truncated": dict.fromkeys(COMMANDS, "copy it again"),
    "text": {
        "deploy": "give the model.pth that the training wrote",
        "convert": "mace_run_train with --trust",
    },
}
# Where a command goes further than to the kind: it unpickles with consent, or reads the content.
FURTHER = {
    "weights": {"convert": "not a MACE model, got dict", "": "missing or unknown entries"},
    "pickled": {"convert": "not a MACE model, got Stranger"},
    "old_pickle": {"convert": "cannot be unpickled|not a MACE model, got dict"},
    "folder": {"": "a model is a file, not a folder|model file must exist|model file not found"},
}


@pytest.mark.parametrize("name", KINDS)
def test_wrong_file_is_one_line_in_every_command(files, name, tmp_path, ag_frames, capsys):
    path, data = str(files[name]), tmp_path / "data.xyz"
    ase.io.write(data, ag_frames[:1])
    what = recognise(path).what
    for command, call in COMMANDS.items():
        if command in TAKEN.get(name, ()):
            continue
        try:
            with pytest.raises(SystemExit) as ended:
                call(path, str(data))
        except KanMdError as error:
            said = str(error)
        else:
            assert ended.value.code == 2, command
            said = capsys.readouterr().err
            assert said.startswith("kan-md: error: ")
            said = said.rstrip("\n")
        assert "\n" not in said
        unpickled = name in FURTHER or command == "convert"
        assert "Error:" not in said or unpickled, said
        further = FURTHER.get(name, {}).get(command) or FURTHER.get(name, {}).get("")
        expected = SAYS.get(name, {}).get(command)
        if further:
            assert any(part in said for part in (*further.split("|"), what)), (command, said)
        elif expected:
            assert expected.format(path=path) in said, (command, said)
        else:
            assert what in said, (command, said)
        assert path in said
    assert sorted(tmp_path.iterdir()) == [data]


def test_checkpoint_and_folder_of_a_run_lead_to_its_model(files, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(files["checkpoint"], run / "checkpoints" / "last.ckpt")
    shutil.copy(files["trained"], run / "model.pth")
    for path in (run, run / "checkpoints" / "last.ckpt"):
        assert str(wrong_file(path, "deployed")).endswith(f": {run / 'model.pth'}")
    (run / "model.pth").unlink()
    assert "the end of a training writes" in str(wrong_file(run, "deployed"))


def test_data_and_configuration_that_are_models_are_named(files, tmp_path, capsys):
    for arguments in (
        ["evaluate", str(files["trained"]), str(files["deployed"])],
        ["train", str(files["trained"])],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "got a model.pth of kan-md;" in said or "got a file of kan-md deploy" in said


def test_compiled_file_of_nequip_says_its_pair_style(tmp_path):
    """nequip-compile has one set of inputs for pair_nequip, with a cell, and one without."""
    path = tmp_path / "up.nequip.pt2"
    for inputs, style in (
        ("pos edge_index atom_types cell edge_cell_shift", "nequip"),
        ("pos edge_index atom_types", "allegro"),
    ):
        metadata = json.dumps(NEQUIP_METADATA | {"nequip_aoti_inputs": inputs})
        path.write_bytes(zipped({"data/aotinductor/model/x_metadata.json": metadata}))
        said = upstream_metadata(path)
        assert (said["pair_style"], said["backend"], said["device"]) == (
            style,
            "aotinductor",
            "cpu",
        )
        entry = deployed_entry(str(path))
        assert (entry.pair_style, entry.type_names, entry.r_max) == (style, ("Cu", "Au"), 4.0)
        assert deployed_entry(str(path), pair_style="nequip").pair_style == "nequip"
