from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny_bert
import torch
from safetensors.torch import save_file

from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.errors import InputError, RunError
from rerankkit.heads.maxsim import MaxSim
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


@pytest.mark.parametrize(
    "held", [torch.ones(3), [torch.ones(3, 4)], None, {"weight": 3}, {"linear.weight": torch.ones(3, 4)}]
)
def test_a_pickle_of_something_else_is_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "colbert_linear.pt")
    with pytest.raises(RunError, match=r"no state dict of a linear layer .*torch.save\(linear.state_dict\(\), file\)"):
        found(tmp_path)


def test_a_damaged_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "colbert_linear.pt"
    torch.save({"weight": torch.ones(3, 4)}, path)
    for held in (b"", path.read_bytes()[:300], b"PK\x03\x04 text", b"{}"):
        path.write_bytes(held)
        with pytest.raises(RunError, match="no state dict of a linear layer"):
            found(tmp_path)


def test_shapes_that_are_no_linear_layer_are_refused(tmp_path: Path) -> None:
    for tensors in ({"weight": torch.ones(3)}, {"weight": torch.ones(3, 4), "bias": torch.ones(4)}):
        torch.save(tensors, tmp_path / "colbert_linear.pt")
        with pytest.raises(RunError, match=r"colbert_linear.pt holds no linear layer: .*expected \(dim, width\) and"):
            found(tmp_path)


def test_dense_modules_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dense(tmp_path / "1_Dense", {"linear.weight": torch.ones(3, 4)}, use_residual=True)
    dense(tmp_path / "2_Dense", {"linear.weight": torch.ones(2, 5)}, activation_function=None)
    dense(tmp_path / "3_Dense", {"linear.other": torch.ones(2, 5)})
    messages = {("1_Dense",): "has no residual.weight", ("3_Dense",): "has no linear.weight"}
    for names, message in messages.items():
        modules(tmp_path, *names)
        with pytest.raises(RunError, match=f"{message}; copy or download the checkpoint again"):
            found(tmp_path)
    (tmp_path / "1_Dense" / "config.json").write_text("{}")
    modules(tmp_path, "1_Dense", "2_Dense")
    with pytest.raises(RunError, match=r"2_Dense\S* takes vectors of 5, and 1_Dense\S* gives 3"):
        found(tmp_path)


def test_a_residual_between_widths_has_a_layer_of_its_own(tmp_path: Path) -> None:
    weight, residual, bias = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3)
    tensors = {"linear.weight": weight, "linear.bias": bias, "residual.weight": residual}
    dense(tmp_path / "1_Dense", tensors, use_residual=True)
    modules(tmp_path, "1_Dense")
    whole, x = found(tmp_path), torch.randn(5, 4)
    assert whole is not None and whole.bias is not None
    torch.testing.assert_close(x @ whole.weight.T + whole.bias, x @ weight.T + bias + x @ residual.T)


@pytest.mark.parametrize("text", ['["Dense"]', '[{"type": "Dense"}]', "["])
def test_modules_that_cannot_be_read_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(RunError, match=r"modules.json .*copy or download it again"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("dim", "bias", "fits"), [(24, True, True), (24, False, False), (32, True, False), (None, False, True)]
)
def test_a_head_takes_the_projection_that_is_there_or_none(dim: int | None, bias: bool, fits: bool) -> None:
    """A projection of another shape is never cut or filled up; `start` and `dim` say what to do without it."""
    backbone = hf_encoder(str(tiny_bert.with_projection(24)))
    stored = torch.load(tiny_bert.with_projection(24) / "colbert_linear.pt", weights_only=True)
    head = MaxSim(dim, bias)
    if not fits:
        recipe = f"dim = {dim} and bias = {str(bias).lower()}, for 32"
        message = f"dim = 24 and bias = true, for a width of 32; the recipe says {recipe}. Write what"
        with pytest.raises(InputError, match=message):
            head.bind(backbone)
        return
    head.bind(backbone)
    states = torch.randn(2, 3, 32)
    plain = states if dim is None else states @ stored["weight"].T + stored["bias"]
    torch.testing.assert_close(head.embed(states), plain / plain.norm(dim=-1, keepdim=True))
    assert not head.untrained
    new = MaxSim(dim, bias, start="new")
    new.bind(backbone)
    assert new.untrained == (dim is not None)


def test_a_projection_for_another_width_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert.encoder(), tmp_path / "copy"))
    torch.save({"weight": torch.ones(24, 48)}, folder / "colbert_linear.pt")
    with pytest.raises(InputError, match=r"for a width of 48; .*for 32"):
        MaxSim(24).bind(hf_encoder(str(folder)))
