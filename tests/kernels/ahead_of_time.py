"""Compiles the Triton kernels of a call for a GPU that is not there, and says what became of them."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

SHARED = {80: 163 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""Bytes of shared memory that a program can have."""


@dataclass
class Compiled:
    name: str
    registers: int
    stack: int
    local: int
    shared: int
    instructions: Counter[str]
    code: str

    def has(self, instruction: str) -> bool:
        return any(name.startswith(instruction) for name in self.instructions)


def compiled(call: Callable[[], Any], module: Any, capability: int) -> list[Compiled]:
    """Every kernel that `call` would launch, with exactly its arguments, compiled rather than launched."""
    found: list[Compiled] = []

    def stand_in(kernel: Any, grid: Any, arguments: dict[str, Any], warps: int, stages: int) -> None:
        found.append(_compile(kernel, arguments, warps, stages, capability))

    with patch.object(module, "launch", stand_in), patch("rerankkit_kernels.backend._problem", lambda *_: ""):
        call()
    return found


def _compile(kernel: Any, arguments: dict[str, Any], warps: int, stages: int, capability: int) -> Compiled:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    assert {parameter.name for parameter in kernel.params} == set(arguments)
    signature, constants, attributes = {}, {}, {}
    for parameter in kernel.params:
        value, place = arguments[parameter.name], (parameter.num,)
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name], constants[place] = "constexpr", value
            continue
        signature[parameter.name] = _type(value)
        if isinstance(value, torch.Tensor) or (value % 16 == 0 and not parameter.do_not_specialize):
            attributes[place] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    binary = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    numbers = {key: int(value) for key, _, value in (part.partition(":") for part in usage.split()) if value.isdigit()}
    operations = [line.split("*/", 1)[1].split() for line in code.splitlines() if "*/" in line and ";" in line]
    names = (words[1] if words[0].startswith("@") else words[0] for words in operations if words)
    return Compiled(
        kernel.__name__,
        numbers["REG"],
        numbers["STACK"],
        numbers["LOCAL"],
        binary.metadata.shared,
        Counter(name.rstrip(";") for name in names),
        code,
    )


def _type(value: Any) -> str:
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "bool": "i1"}
    name = str(value.dtype).removeprefix("torch.")
    return "*" + names.get(name, name.replace("int", "i"))


def _tool(name: str, *arguments: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout
