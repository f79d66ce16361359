"""What deploy chooses by itself: the backend, the bound of the tables, and what it may replace."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conformance import ELEMENTS, LINES

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.device import check_device
from kan_md_deploy import aotinductor, deploy, deploy_model, load_deployed, pipeline
from kan_md_deploy import torchscript as torchscript_backend
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.errors import NotCompiledError, not_compiled
from kan_md_deploy.passes import fused_allegro


def run(*arguments) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


class Unscriptable(torch.nn.Module):
    """TorchScript does not take the annotation."""

    def forward(self, x) -> "Unscriptable":
        return x


def test_what_torchscript_cannot_compile_is_named_in_one_line():
    with pytest.raises(
        NotCompiledError, match=r"TorchScript cannot compile this model, got .+"
    ) as e:
        torchscript_backend.compile_torchscript(Unscriptable())
    assert "\n" not in str(e.value)
    assert "; deploy with --backend aotinductor" in str(e.value)
    assert e.value.reason in str(e.value)


def test_reason_is_the_first_line_and_its_place():
    text = '\n\nA [b] is missing:\n  File "/x/site-packages/mace/blocks.py", line 7\n  self.a\n'
    error = not_compiled("TorchScript", RuntimeError(text), remedy="mend it")
    assert error.reason == "A [b] is missing (mace/blocks.py, line 7)"
    assert str(error).endswith("got A [b] is missing (mace/blocks.py, line 7); mend it")


def test_export_that_fails_is_one_line(tiny_checkpoint):
    class Endless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("one", torch.ones(1))

        def forward(self, vectors, index, types, num_local):
            return (vectors[: int(vectors.sum())],)  # a shape that depends on values

    example = (
        torch.ones(4, 3),
        torch.zeros(2, 4, dtype=torch.int64),
        torch.zeros(4),
        torch.ones(1),
    )
    with pytest.raises(NotCompiledError, match="AOTInductor cannot compile this model, got") as e:
        aotinductor.compile_aotinductor(Endless(), example=example)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("backend", [None, "auto"])
def test_model_that_cannot_be_scripted_is_compiled_the_other_way(
    tiny_checkpoint, tmp_path, monkeypatch, capsys, backend
):
    """By a decree that spares the export: its file is one that is there already."""
    source = shutil.copy(tiny_checkpoint("nequip"), tmp_path / "model.pth")
    ready = deploy(source, tmp_path / "ready.pth")

    def deploy_with(_, model_path, output, *, backend, **__):
        if backend == "torchscript":
            raise not_compiled(backend, RuntimeError("no o3.Irreps"), remedy="go on")
        path = output or tmp_path / f"model{pipeline.SUFFIX[backend]}"
        return shutil.copy(ready, path)

    monkeypatch.setattr(pipeline, "_deploy_with", deploy_with)
    result = deploy_model(source, backend=backend)
    assert result.path == tmp_path / "model.deployed.pt2"
    assert result.refused == {"torchscript": "no o3.Irreps"}
    run("deploy", source, *([] if backend is None else ["--backend", backend]))
    said = " ".join(capsys.readouterr().out.split())
    assert "not torchscript │ which cannot compile this model: no o3.Irreps" in said
    with pytest.raises(NotCompiledError, match="no o3"):
        deploy_model(source, backend="torchscript")


@pytest.mark.parametrize(
    ("times", "kept"), [([2.0, 1.0], "aotinductor"), ([1.0, 2.0], "torchscript")]
)
def test_auto_keeps_the_faster_file(deployed, tiny_checkpoint, tmp_path, monkeypatch, times, kept):
    """Of files that are there already, timed by decree; the order of backends is the contract's."""
    (style, keywords, *_), (exact, _) = LINES["allegro, small: AOTInductor"]
    keywords = keywords | {"type_names": ELEMENTS}
    written = {
        backend: deployed(style, deploy=exact | {"backend": backend}, **keywords)
        for backend in ("torchscript", "aotinductor")
    }

    def write(_, model_path, path, *, backend, **__):
        return shutil.copy(written[backend], path)

    def timed(calls):
        for call in calls:
            call()
        return times

    monkeypatch.setattr(pipeline, "_deploy_with", write)
    monkeypatch.setattr(pipeline, "median_times", timed)
    model = tiny_checkpoint(style, **keywords)
    path = deploy(shutil.copy(model, tmp_path / "model.pth"), backend="auto")
    assert path.name == f"model{pipeline.SUFFIX[kept]}"
    assert load_deployed(path).manifest.backend == kept
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "model.pth"])


def test_tensor_model_that_cannot_be_scripted_has_no_other_way(monkeypatch):
    def nothing(*_, **__):
        raise not_compiled("TorchScript", RuntimeError("no"), remedy="stop")

    monkeypatch.setattr(pipeline, "_deploy_with", nothing)
    made_up = SimpleNamespace(backbone="etgnn", config={"model": {}})
    monkeypatch.setattr(pipeline, "load_checkpoint", lambda _: made_up)
    with pytest.raises(NotCompiledError, match="stop"):
        deploy_model("model.pth")


@pytest.mark.parametrize(("device", "index"), [("cpu", -1), ("cuda", -1), ("cuda:1", 1)])
def test_package_is_loaded_onto_the_device_that_is_asked_for(tmp_path, monkeypatch, device, index):
    """-1 is torch's word for the present device of a kind."""
    asked = {}
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda source, **options: asked.update(options)
    )
    (tmp_path / "model.pt2").touch()
    aotinductor.load_aotinductor(tmp_path / "model.pt2", device=device)
    assert asked == {"device_index": index, "run_single_threaded": True}


def test_without_a_gpu_each_command_says_what_it_can_do(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        KanMdError, match=r"no CUDA device here, got cuda; .* add --static-shapes to"
    ):
        deploy(tiny_checkpoint("nequip"), tmp_path / "x.pth", device="cuda", backend="aotinductor")
    with pytest.raises(KanMdError, match=r"got cuda; allowed: cpu; choose device cpu"):
        check_device("cuda")
    with pytest.raises(KanMdError, match="allowed: cpu; make it elsewhere"):
        check_device("cuda", without="make it elsewhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check_device("cuda") == "cuda"
    with pytest.raises(KanMdError, match="allowed: cpu, cuda:0; choose one of these"):
        check_device("cuda:1", without="make it elsewhere")


@pytest.mark.parametrize("backbone", ["nequip", "mace"])
def test_passes_work_in_float64_within_its_tolerance(
    tiny_checkpoint, tmp_path, capsys, operators, backbone
):
    source = shutil.copy(tiny_checkpoint(backbone), tmp_path / "model.pth")
    run("deploy", source)
    table = capsys.readouterr()
    assert "--dtype float32" in table.out
    assert "note" not in table.err
    manifest = read_manifest(tmp_path / "model.deployed.pth")
    assert manifest.dtype == "float64"
    assert f"fused_{backbone}" in manifest.passes
    assert manifest.force_error < 1e-9


def test_a_bound_of_zero_leaves_tables_out_and_says_so(tiny_checkpoint, tmp_path, capsys):
    source = shutil.copy(tiny_checkpoint("nequip"), tmp_path / "model.pth")
    run("deploy", source, "--bound", "0", "--json")
    captured = capsys.readouterr()
    assert "leaves the tables out" in " ".join(captured.err.split())
    assert not json.loads(captured.out)["passes"]
    assert not read_manifest(tmp_path / "model.deployed.pth").passes


@pytest.fixture(scope="module")
def operators():
    from kan_md.ops import is_built

    if not is_built():
        pytest.skip("operators are not built: run `kan-md build`")


def test_tables_that_are_too_large_leave_a_model_as_it_was(
    tiny_checkpoint, tmp_path, monkeypatch, operators
):
    monkeypatch.setitem(fused_allegro.LARGEST_TABLES, torch.float64, 1 << 10)
    source = tiny_checkpoint("allegro")
    path = deploy(source, tmp_path / "x.pth", operators="fused", bound=1e-8)
    passes = load_deployed(path).manifest.passes
    assert "radial tables of" in passes["fused_allegro"]["skipped"]
    assert "skipped" not in passes["radial_tables"]


def test_only_a_file_of_the_same_model_is_replaced_without_being_asked(
    tiny_checkpoint, tmp_path, capsys
):
    source = shutil.copy(tiny_checkpoint("allegro"), tmp_path / "model.pth")
    output = tmp_path / "out.pth"
    plain = ("deploy", source, "-o", output, "--passes", "none")
    run(*plain)
    before = output.stat().st_ino
    run(*plain, "--dtype", "float32")
    assert output.stat().st_ino != before
    assert read_manifest(output).dtype == "float32"
    checkpoint = load_checkpoint(source)
    checkpoint.training_summary["epochs"] = 7  # trained on: another file, another digest
    save_checkpoint(checkpoint, source)
    content = output.read_bytes()
    with pytest.raises(SystemExit):
        main([str(argument) for argument in plain])
    assert "deployed from another model; choose another -o or give --overwrite" in (
        capsys.readouterr().err
    )
    assert output.read_bytes() == content
    run(*plain, "--overwrite")
    assert read_manifest(output).dtype == "float64"
    damaged = output.read_bytes()[:-100]
    output.write_bytes(damaged)
    with pytest.raises(SystemExit):
        main([str(argument) for argument in plain])
    assert "not deployed by kan-md, or is damaged" in capsys.readouterr().err
    assert output.read_bytes() == damaged
