"""Which backend runs; the ops as torch.compile and torch.library see them; what imports what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rerankkit_kernels import backend, maxsim, maxsim_packed, pair_score, sequence_logprob, token_logprob

ROOT = Path(__file__).parents[2]
MASK = torch.tensor([[True, True, False, True, False], [False] * 5, [True] * 5])
BOUNDS = torch.tensor([0, 4, 4, 15])
OPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "maxsim": lambda q, d: maxsim(q, d, q_mask=MASK[:, :4], d_mask=MASK, empty="-inf"),
    "maxsim grouped": lambda q, d: maxsim(q, d.unsqueeze(1).expand(-1, 2, -1, -1), MASK[:, :4]),
    "maxsim pairs": lambda q, d: maxsim(q, d, layout="pairs"),
    "maxsim_packed": lambda q, d: maxsim_packed(q, d.flatten(0, 1), BOUNDS),
    "maxsim_packed pairs": lambda q, d: maxsim_packed(q, d.flatten(0, 1), BOUNDS, pair_q=torch.tensor([2, 0, 0])),
    "pair_score": lambda q, d: pair_score(
        q, d.flatten(0, 1), 3, 7, attention_mask=MASK[:, :4] | (torch.arange(4) == 0), softcap=2.0
    ),
    "token_logprob": lambda q, d: token_logprob(q, d.flatten(0, 1), torch.ones(3, 4, 2, dtype=torch.long)),
    "sequence_logprob": lambda q, d: sequence_logprob(
        q, d.flatten(0, 1), torch.ones(3, 4, dtype=torch.long), mask=MASK[:, :4], reduction="mean"
    ),
    "sequence_logprob frozen": lambda q, d: (
        sequence_logprob(q, d.detach().flatten(0, 1), torch.ones(3, 4, dtype=torch.long), mask=MASK[:, :4])
        + 0 * d.mean()
    ),
}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, 8, requires_grad=True), torch.randn(3, 5, 8, requires_grad=True)


@pytest.mark.parametrize("name", OPS)
def test_it_compiles_into_one_graph(name: str) -> None:
    torch._dynamo.reset()
    q, d = inputs()
    compiled = torch.compile(OPS[name], fullgraph=True, backend="aot_eager")
    wanted = OPS[name](q, d)
    found = compiled(q, d)
    assert torch.equal(found, wanted)
    finite = wanted.isfinite()
    ours = torch.autograd.grad(found[finite].square().sum(), (q, d))
    theirs = torch.autograd.grad(wanted[finite].square().sum(), (q, d))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with torch.no_grad():  # where likelihoods are added up another way than with the gradient beside them
        torch.testing.assert_close(torch.compile(OPS[name], fullgraph=True, backend="aot_eager")(q, d), wanted)


@pytest.mark.parametrize("name", OPS)
def test_the_operators_keep_to_what_they_declare(name: str) -> None:
    """Schema, autograd registration, and shapes and types without data, for every call that is made."""
    calls: list[tuple[Any, Any]] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "rerankkit":
                calls.append((func, args))
            return func(*args, **(kwargs or {}))

    with Record():
        scores = OPS[name](*inputs())
        scores[scores.isfinite()].sum().backward()
    assert [str(func).rpartition("_")[2] for func, _ in calls] == ["forward.default", "backward.default"]
    for func, args in calls:
        detached = [one.detach() if isinstance(one, torch.Tensor) else one for one in args]
        torch.library.opcheck(func, tuple(detached), test_utils=("test_schema", "test_faketensor"))
    leaves = [one.detach().requires_grad_(one.is_floating_point()) if isinstance(one, torch.Tensor) else one
              for one in calls[0][1]]  # fmt: skip
    torch.library.opcheck(calls[0][0], tuple(leaves), test_utils="test_autograd_registration")


@pytest.mark.parametrize("name", OPS)
def test_a_second_derivative_is_refused(name: str) -> None:
    q, d = inputs()
    scores = OPS[name](q, d)
    (grad,) = torch.autograd.grad(scores[scores.isfinite()].square().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="_backward is not differentiable: the ops have first derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize("name", OPS)
def test_inference_mode(name: str) -> None:
    q, d = inputs()
    with torch.inference_mode():
        found = OPS[name](q, d)
    torch.testing.assert_close(found, OPS[name](q, d).detach())


@pytest.mark.parametrize("name", ["d_mask", "cu_seqlens_d", "weight", "bias", "targets", "ids"])
def test_tensors_of_two_devices_are_refused(name: str) -> None:
    q, d = (one.detach() for one in inputs())
    tokens = torch.ones(3, 4, dtype=torch.long)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "d_mask": lambda: maxsim(q, d, d_mask=MASK.to("meta")),
        "cu_seqlens_d": lambda: maxsim_packed(q, d.flatten(0, 1), BOUNDS.to("meta")),
        "weight": lambda: pair_score(q, d.flatten(0, 1).to("meta"), 3, 7, attention_mask=tokens),
        "bias": lambda: pair_score(q, d[0], 3, 4, attention_mask=tokens, bias=torch.zeros(5, device="meta")),
        "targets": lambda: sequence_logprob(q, d[0], tokens.to("meta")),
        "ids": lambda: token_logprob(q, d[0], tokens.unsqueeze(2).to("meta")),
    }
    with pytest.raises(ValueError, match=rf"(q|hidden) is on cpu and {name} on meta: move them to one device"):
        calls[name]()


def test_triton_that_cannot_run_is_an_error_and_auto_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    q, d = (one.detach() for one in inputs())
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run: "):
        maxsim(q, d, backend="triton")
    assert torch.equal(maxsim(q, d, backend="auto"), maxsim(q, d, backend="torch"))
    monkeypatch.setenv(backend.VARIABLE, "triton")
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run: "):
        maxsim(q, d)
    assert torch.equal(maxsim(q, d, backend="torch"), maxsim(q, d, backend="torch"))
    monkeypatch.setenv(backend.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="backend 'cuda' is none of auto, triton, torch .*RERANKKIT_KERNELS"):
        maxsim(q, d)


def test_they_need_torch_alone() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import torch, rerankkit_kernels as k\n"
        "print(k.maxsim(torch.ones(1, 2, 3), torch.ones(1, 4, 3)).item(), 'torch._dynamo' in sys.modules, "
        "[name for name in sys.modules if name.split('.')[0] in ('rerankkit', 'transformers')])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT.parent
    )
    assert done.stdout.split() == ["6.0", "False", "[]"], done.stderr


def test_what_the_readme_shows() -> None:
    code = re.search(r"^```python\n(.*?)^```", (ROOT / "kernels" / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert code is not None
    names: dict[str, Any] = {}
    checked = 0
    for line in code[1].splitlines():
        exec(line, names)
        if shape := re.search(r"# (\[[\d, ]+\])", line):
            assert list(eval(line, names).shape) == json.loads(shape[1]), line
            checked += 1
    assert checked == 8
