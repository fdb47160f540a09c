"""`auto` proves itself: what makes it step back to PyTorch, what it says, and when it does not ask at all."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rerankkit_kernels import backend, maxsim, maxsim_packed, pair_score, proof, sequence_logprob, token_logprob
from torch._subclasses.fake_tensor import FakeTensorMode

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is proven, and a CPU may prove itself, as a GPU does."""
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(backend, "PROVEN_ON", ("cuda", "cpu"))
    caplog.set_level(logging.INFO)
    backend.forget()
    yield
    backend.forget()


def scores(backend: str) -> list[torch.Tensor]:
    """One call of each op, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    q, d = torch.randn(3, 4, 8, generator=generator), torch.randn(5, 6, 8, generator=generator)
    leaf, positions, ids = q.clone().requires_grad_(), torch.tensor([0, 3, 1]), torch.ones(3, 4, dtype=torch.long)
    found = [
        maxsim(q, d, backend=backend),
        maxsim_packed(q, d.flatten(0, 1), torch.tensor([0, 4, 30]), backend=backend),
        pair_score(q, d.flatten(0, 1), 3, 7, positions=positions, backend=backend),
        sequence_logprob(q, d.flatten(0, 1), ids, backend=backend),
    ]
    maxsim(leaf, d, backend=backend).sum().backward()
    assert leaf.grad is not None
    return [*found, leaf.grad]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def off(name: str, place: int | None = None) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """A function of a Triton module whose result, or one of its results or arguments, comes out wrong."""

    def soil(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        op, function = name.split(".")
        module = __import__(f"rerankkit_kernels.{op}.triton", fromlist=[function])
        real = getattr(module, function)

        def wrong(*arguments: Any) -> Any:
            found = real(*arguments)
            soiled = arguments[0] if function == "add" else found if place is None else found[place]
            if soiled.numel():
                soiled[-1] += 3
            return found

        monkeypatch.setattr(module, function, wrong)

    return soil


def failing(error: Exception) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """A launch that raises what a driver, a compiler or a disk does."""

    def launch(*_: Any) -> None:
        raise error

    def fail(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        from rerankkit_kernels.maxsim import triton

        monkeypatch.setattr(triton, "launch", launch)

    return fail


def no_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Triton's own first step of a launch on a GPU, on a machine without a C compiler."""
    from rerankkit_kernels.maxsim import triton
    from triton.runtime.build import _build

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(
        triton, "launch", lambda *_: _build("driver", str(folder / "main.c"), str(folder), [], [], [], [])
    )


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], None], str]] = {
    "scores": (off("maxsim.forward", 0), "maxsim in torch.float32 came out wrong on cpu"),
    "winners": (off("maxsim.forward", 1), "maxsim in torch.float32 came out wrong"),
    "gradients of queries": (off("maxsim.backward", 0), "maxsim in torch.float32 came out wrong"),
    "gradients of documents": (off("maxsim.backward", 1), "maxsim in torch.float32 came out wrong"),
    "pair_score": (off("pair_score.forward"), "pair_score in torch.float32 came out wrong"),
    "log-sum-exp": (off("logprob.add"), "token_logprob in torch.float32 came out wrong"),
    "gradient of logits": (off("logprob.differentiate"), "token_logprob in torch.float32 came out wrong"),
    "no compiler": (no_compiler, "Failed to find C compiler"),
    "driver": (failing(RuntimeError("Triton Error [CUDA]: device kernel image is invalid")), "image is invalid"),
    "disk": (failing(OSError(28, "No space left on device")), "OSError: [Errno 28] No space left on device"),
    "assertion": (failing(AssertionError()), "failed with AssertionError"),
}


@pytest.mark.interpreted
@needs_triton
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said_once_and_scores_are_those_of_pytorch(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cause, reason = FAULTS[fault]
    wanted = scores("torch")
    cause(monkeypatch, tmp_path)
    if reason.startswith(("pair_score", "token_logprob")):  # the longest part of the proof says nothing about these
        monkeypatch.setattr(proof, "_maxsim", lambda *_: True)
    assert same(scores("auto"), wanted) and same(scores("auto"), wanted)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and reason in record.message
    assert record.message.startswith("kernels run in PyTorch rather than Triton: ")


@pytest.mark.interpreted
@needs_triton
@pytest.mark.parametrize("fault", ["no compiler", "driver", "disk"])
def test_what_was_forced_raises(fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cause, reason = FAULTS[fault]
    cause(monkeypatch, tmp_path)
    with pytest.raises((RuntimeError, OSError)) as caught:
        maxsim(torch.ones(1, 2, 3), torch.ones(1, 4, 3), backend="triton")
    assert reason.removeprefix("OSError: ") in str(caught.value)


@pytest.mark.interpreted
@needs_triton
def test_kernels_that_are_right_are_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    proofs, real = [], proof.problem
    monkeypatch.setattr(proof, "problem", lambda *about: proofs.append(about) or real(*about))  # type: ignore[func-returns-value]
    state = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert backend.why_torch(CPU, torch.float32) == ""
    assert same(scores("auto"), scores("triton")) and not caplog.records
    assert proofs == [(CPU, torch.float32)]
    assert torch.equal(torch.random.get_rng_state(), state)
    q, d = torch.randn(2, 3, 8).bfloat16(), torch.randn(4, 5, 8).bfloat16()
    maxsim(q, d)
    assert proofs == [(CPU, torch.float32), (CPU, torch.bfloat16)]


@pytest.mark.interpreted
@needs_triton
@pytest.mark.parametrize("around", ["default device", "default type", "transform"])
def test_what_is_around_a_call_is_no_fault_of_the_kernels(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults of another device or type, as transformers sets while it loads, and the transforms of torch.func."""
    monkeypatch.setattr(proof, "_maxsim", lambda *_: True)  # takes the longest, and does nothing that the others do not
    answers: list[str] = []

    def ask(x: torch.Tensor) -> torch.Tensor:
        answers.append(proof.problem(CPU, torch.float32))
        return x.sum()

    if around == "transform":
        torch.func.grad(ask)(torch.ones(2))
    elif around == "default device":
        with torch.device("meta"):
            ask(torch.ones(2))
    else:
        torch.set_default_dtype(torch.bfloat16)
        try:
            ask(torch.ones(2))
        finally:
            torch.set_default_dtype(torch.float32)
    assert answers == [""]


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing speaks against Triton until the proof; and the proofs that were made, which all fail."""
    made: list[str] = []
    monkeypatch.setattr(backend, "_problem", cache(lambda *_: ""))
    monkeypatch.setattr(proof, "problem", lambda *about: made.append(str(about)) or "it is wrong")  # type: ignore[func-returns-value]
    backend._proofs.clear()
    return made


def test_two_threads_make_one_proof(able: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, answers = threading.Event(), threading.Event(), []

    def slow(*_: Any) -> str:
        able.append("")
        begun.set()
        assert go_on.wait(60)
        return "it is wrong"

    monkeypatch.setattr(proof, "problem", slow)
    threads = [threading.Thread(target=lambda: answers.append(backend.why_torch(CPU, torch.float32))) for _ in range(4)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert answers == ["it is wrong"] * 4 and len(able) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_proves(able: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The child, in which that thread does not exist, does not wait for it."""
    begun, go_on, made = threading.Event(), threading.Event(), proof.problem

    def slow(*_: Any) -> str:
        begun.set()
        assert go_on.wait(60)
        return ""

    monkeypatch.setattr(proof, "problem", slow)
    thread = threading.Thread(target=backend.why_torch, args=(CPU, torch.float32))
    thread.start()
    assert begun.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(60)  # kills a child that waits
        proof.problem = made
        os._exit(0 if backend.why_torch(CPU, torch.float32) == "it is wrong" else 1)
    go_on.set()
    thread.join(60)
    assert os.waitpid(child, 0)[1] == 0
    assert backend.why_torch(CPU, torch.float32) == ""


def test_tensors_without_numbers_prove_nothing(able: list[str]) -> None:
    with FakeTensorMode():
        shapes = [list(one.shape) for one in scores("auto")]
        q, d = torch.empty(3, 4, 8, requires_grad=True), torch.empty(30, 8)
        sequence_logprob(q, d, torch.ones(3, 4, dtype=torch.long)).sum().backward()
        assert q.grad is not None and q.grad.shape == q.shape
    assert shapes == [[3, 5], [3, 2], [3], [3], [3, 4, 8]] and not able
    assert maxsim(torch.empty(2, 3, 8, device="meta"), torch.empty(4, 5, 8, device="meta")).shape == (2, 4)
    assert not able


def test_a_graph_is_right_whatever_the_proof_says_afterwards(able: list[str]) -> None:
    """Whether a frozen output layer's gradients are made in the forward pass is decided when the graph is made."""
    seen: list[int] = []

    def counting(module: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(len(able))  # proofs made while tracing
        return module.forward

    hidden, weight = torch.randn(3, 4, 8, requires_grad=True), torch.randn(30, 8)
    ids = torch.ones(3, 4, 2, dtype=torch.long)
    torch._dynamo.reset()

    def step(hidden: torch.Tensor) -> torch.Tensor:
        likelihood = sequence_logprob(hidden, weight, ids[..., 0])
        return likelihood.sum() + token_logprob(hidden, weight, ids).sum() + maxsim(hidden, weight[None]).sum()

    compiled = torch.compile(step, fullgraph=True, backend=counting)
    (ours,) = torch.autograd.grad(compiled(hidden), hidden)
    assert seen == [0]
    (theirs,) = torch.autograd.grad(step(hidden), hidden)
    torch.testing.assert_close(ours, theirs)
    assert len(able) == 1


def test_a_capture_is_not_interrupted(
    able: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as capture:
        capture.setattr(backend, "_is_captured", lambda device: True)
        assert same(scores("auto"), scores("torch")) and not able
        assert [record.message for record in caplog.records] == [
            "kernels run in PyTorch rather than Triton: a CUDA graph is captured before they have proven themselves; "
            "call the op once before the capture"
        ]
    assert backend.why_torch(CPU, torch.float32) == "it is wrong"
    monkeypatch.setattr(backend, "_is_captured", lambda device: True)
    backend._proofs[(CPU, torch.float32)] = ""  # what is proven is captured
    assert backend.why_torch(CPU, torch.float32) == ""


def test_a_full_memory_says_nothing_about_the_kernels(able: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as once:
        once.setattr(proof, "problem", full)
        assert backend.why_torch(CPU, torch.float32) == "there was no memory to prove them in"
    assert backend.why_torch(CPU, torch.float32) == "it is wrong"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU as torch would describe it, with what a test says about it."""
    about = SimpleNamespace(capability=(9, 0), hip=None, triton="3.7.1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: about.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Acme 9000")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(proof, "problem", lambda *_: "")
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: about.triton)

    def version(name: str) -> str:
        if about.triton == "nightly":
            raise PackageNotFoundError(name)
        return str(about.triton)

    monkeypatch.setattr(backend.importlib.metadata, "version", version)
    return about


@pytest.mark.parametrize(
    ("capability", "hip", "triton", "dtype", "reason"),
    [
        ((9, 0), None, "3.7.1", torch.float32, ""),
        ((12, 0), None, "3.7.1", torch.bfloat16, ""),
        ((10, 0), None, "3.8.0", torch.float32, ""),
        ((10, 0), None, "3.8rc1", torch.float32, ""),
        ((10, 0), None, "nightly", torch.float32, "Triton before 3.8 adds up products wrongly on Acme 9000"),
        ((7, 5), None, "3.7.1", torch.float32, "Acme 9000 is older than compute capability 8.0"),
        ((9, 0), "6.4", "3.7.1", torch.float32, "the tensors are on an AMD GPU, not on an NVIDIA GPU"),
        ((10, 0), None, "3.7.1", torch.float32, "Triton before 3.8 adds up products wrongly on Acme 9000"),
        ((10, 3), None, "3.6.0", torch.bfloat16, "Triton before 3.8 adds up products wrongly on Acme 9000"),
        ((9, 0), None, None, torch.float32, "it is not installed (pip install triton)"),
        ((9, 0), None, "3.7.1", torch.float64, "no kernel takes torch.float64"),
    ],
)
def test_what_a_gpu_cannot_run_is_said_once(
    capability: Any, hip: Any, triton: Any, dtype: torch.dtype, reason: str, gpu: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    gpu.capability, gpu.triton = capability, triton
    monkeypatch.setattr(torch.version, "hip", hip)
    tensor: Any = SimpleNamespace(device=GPU, dtype=dtype)
    assert [backend.uses_triton("auto", tensor) for _ in range(3)] == [not reason] * 3
    assert backend.why_torch(GPU, dtype).startswith(reason)
    if reason:
        with pytest.raises(RuntimeError, match="backend 'triton' cannot run: "):
            backend.uses_triton("triton", tensor)
        assert sum(reason in record.message for record in caplog.records) == len(caplog.records) == 1


def test_half_precision_is_asked_of_the_capability(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    multiplies = backend.multiplies_bf16.__wrapped__
    assert multiplies(GPU)
    gpu.capability = (7, 5)
    assert not multiplies(GPU)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert multiplies(GPU)


def test_without_a_gpu_it_is_said_once_and_pytorch_scores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "PROVEN_ON", ("cuda",))
    assert same(scores("auto"), scores("torch"))
    assert [record.message for record in caplog.records] == [
        "kernels run in PyTorch rather than Triton: the tensors are on cpu, not on an NVIDIA GPU"
    ]
