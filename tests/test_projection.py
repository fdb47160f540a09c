from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rerankkit.errors import InputError, RunError
from rerankkit.projection import Projection, find_projection


def found(folder: Path) -> Projection | None:
    return find_projection(lambda name: folder / name if (folder / name).is_file() else None)


def dense(at: Path, tensors: dict[str, torch.Tensor], **config: object) -> None:
    at.mkdir(parents=True)
    (at / "config.json").write_text(json.dumps(config))
    save_file(tensors, at / "model.safetensors")


def modules(folder: Path, *names: str) -> None:
    kinds = [{"path": "", "type": "x.Transformer"}, *({"path": name, "type": "x.Dense"} for name in names)]
    (folder / "modules.json").write_text(json.dumps(kinds))


def test_dense_modules_are_applied_one_after_another(tmp_path: Path) -> None:
    one, two, bias = torch.randn(6, 4), torch.randn(3, 6), torch.randn(3)
    dense(tmp_path / "1_Dense", {"linear.weight": one}, activation_function="torch.nn.modules.linear.Identity")
    dense(tmp_path / "2_Dense", {"linear.weight": two, "linear.bias": bias})
    modules(tmp_path, "1_Dense", "2_Dense")
    both, x = found(tmp_path), torch.randn(5, 4)
    assert both is not None and both.bias is not None
    torch.testing.assert_close(x @ both.weight.T + both.bias, (x @ one.T) @ two.T + bias)


def test_a_residual_is_added_and_an_activation_refused(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    dense(tmp_path / "1_Dense", {"linear.weight": weight}, use_residual=True)
    modules(tmp_path, "1_Dense")
    whole, x = found(tmp_path), torch.randn(5, 4)
    assert whole is not None
    torch.testing.assert_close(x @ whole.weight.T, x @ weight.T + x)
    (tmp_path / "1_Dense" / "config.json").write_text('{"activation_function": "torch.nn.modules.activation.Tanh"}')
    with pytest.raises(InputError, match="has the activation Tanh"):
        found(tmp_path)


def test_stanfords_and_open_retrievals_layers_are_found(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    linear = torch.nn.Linear(4, 3)
    torch.save(linear.state_dict(), tmp_path / "colbert_linear.pt")
    pickled = found(tmp_path)
    assert pickled is not None and pickled.bias is not None
    assert torch.equal(pickled.weight, linear.weight) and torch.equal(pickled.bias, linear.bias)
    save_file({"linear.weight": torch.ones(2, 4).half(), "bert.x": torch.ones(1)}, tmp_path / "model.safetensors")
    stanford = found(tmp_path)
    assert stanford is not None and stanford.bias is None
    assert torch.equal(stanford.weight, torch.ones(2, 4))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Malicious()}, tmp_path / "colbert_linear.pt")
    with pytest.raises(RunError, match="can be read without running code"):
        found(tmp_path)
    (tmp_path / "colbert_linear.pt").write_bytes(b"no pickle")
    with pytest.raises(RunError, match="can be read without running code"):
        found(tmp_path)
    assert not (tmp_path / "ran").exists()
