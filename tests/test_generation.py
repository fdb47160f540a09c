"""Greedy writing: the tokens of a naive loop, whatever the batch, and none of a checkpoint's own settings."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_t5
import torch
import transformers

from rerankkit.errors import InputError, RunError
from rerankkit.lora import Lora
from rerankkit.prompt_tokens import padded
from rerankkit.protocols import Batch, Writer

LENGTHS = [3, 17, 8, 30, 1]
NEW = 12
CAUSAL = ["llama", "qwen3", "gemma2", "gpt2", "phi"]
WILD = {
    "do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "suppress_tokens": list(range(10, 60)),
    "forced_bos_token_id": 7, "min_new_tokens": 9,
}  # fmt: skip


def naive(step: Any, ids: list[int], ends: set[int]) -> list[int]:
    """One token at a time, all logits of everything so far anew."""
    found: list[int] = []
    while len(found) < NEW:
        with torch.no_grad():
            token = int(step([*ids, *found])[-1].argmax())
        if token in ends:
            break
        found.append(token)
    return found


def causal(architecture: str, lora: Lora | None = None) -> tuple[Any, Any, list[list[int]]]:
    """A model whose adapter does something, its next logits, and prompts of mixed length."""
    model = moved(tiny.backbone(architecture, lora=lora))
    prompts = [model.tokenizer(tiny.sentence(i, n))["input_ids"] for i, n in enumerate(LENGTHS)]
    return model, lambda ids: model.module(input_ids=torch.tensor([ids])).logits[0], prompts


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.module.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def causal_batch(model: Any, prompts: list[list[int]]) -> Batch:
    return Batch(padded(prompts, model.tokenizer), torch.tensor([len(ids) - 1 for ids in prompts]))


@pytest.mark.parametrize("lora", [None, Lora(r=4, merge=False)])
@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_causal_model_writes_what_a_naive_loop_writes(architecture: str, lora: Lora | None) -> None:
    model, step, prompts = causal(architecture, lora)
    assert isinstance(model, Writer)
    ends = {model.model.generation_config.eos_token_id}
    expected = [naive(step, ids, ends) for ids in prompts]
    assert model.write(causal_batch(model, prompts), NEW) == expected
    assert [model.write(causal_batch(model, [ids]), NEW)[0] for ids in prompts] == expected
    assert len({tuple(answer) for answer in expected}) > 1


def test_any_of_several_end_tokens_ends_an_answer() -> None:
    model, step, prompts = causal("llama")
    free = [naive(step, ids, set()) for ids in prompts]
    model.model.generation_config.eos_token_id = ends = [free[0][3], free[1][0], 2]
    expected = [naive(step, ids, set(ends)) for ids in prompts]
    assert min(map(len, expected)) == 0 and len(expected[0]) <= 3  # some end early, one at once
    assert model.write(causal_batch(model, prompts), NEW) == expected
    assert model.model.generation_config.eos_token_id == ends


def encoded_batch(model: Any, read: list[list[int]], rows: list[tuple[int, list[int]]]) -> Batch:
    shared_of = torch.tensor([text for text, _ in rows])
    tokens = padded([ids for _, ids in rows], model.tokenizer)
    return Batch(tokens, torch.tensor([len(i) - 1 for _, i in rows]), padded(read, model.tokenizer), shared_of)


def of_either_kind(kind: str, architecture: str, texts: list[list[int]]) -> tuple[Any, Batch]:
    """A causal model with its prompts, or an encoder-decoder whose decoder begins after each of these texts."""
    if kind == "causal":
        model, _, prompts = causal("llama")
        return model, causal_batch(model, prompts)
    model = tiny_t5.backbone(architecture)
    start = model.tokenizer.decoder_start_token_id
    return model, encoded_batch(model, texts, [(number, [start]) for number in range(len(texts))])


@pytest.mark.parametrize("lora", [None, Lora(r=4, merge=False)])
@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_a_decoder_writes_what_a_naive_loop_writes(architecture: str, lora: Lora | None) -> None:
    model = moved(tiny_t5.backbone(architecture, lora))
    assert isinstance(model, Writer)
    start = model.tokenizer.decoder_start_token_id
    read = [model.tokenizer(tiny.sentence(i, n))["input_ids"] for i, n in enumerate(LENGTHS)]
    rows = [(0, [start]), (1, [start, 8]), (2, [start]), (3, [start, 8, 20]), (4, [start, 9]), (1, [start])]

    def step(text: int) -> Any:
        given = torch.tensor([read[text]])
        return lambda ids: model.module(input_ids=given, decoder_input_ids=torch.tensor([ids])).logits[0]

    expected = [naive(step(text), ids, {1}) for text, ids in rows]
    calls: list[int] = []
    model.model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    assert model.write(encoded_batch(model, read, rows), NEW) == expected
    assert len(calls) == 1  # each text is read once, in one pass, however many answers are written
    alone = [model.write(encoded_batch(model, [read[text]], [(0, ids)]), NEW)[0] for text, ids in rows]
    assert alone == expected
    assert len({tuple(answer) for answer in expected}) > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["causal", "decoder"])
def test_an_answer_of_logits_that_are_not_finite_is_none(kind: str, value: float) -> None:
    model, batch = of_either_kind(kind, "t5", [[6, 7, 8, 1]])
    output = model.model.get_output_embeddings()

    def broken_once(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        logits = logits.clone()
        logits[-1, -1, 30] = value if len(steps) == 3 else -torch.inf  # a token that is never written is no fault
        return logits

    steps: list[int] = []
    output.register_forward_hook(broken_once)
    assert len(model.write(batch, 2)) == len(batch.answer)
    steps.clear()
    with pytest.raises(RunError, match=r"not finite where it writes an answer.*try bf16 or fp32"):
        model.write(batch, NEW)


@pytest.mark.parametrize("kind", ["causal", "decoder"])
def test_a_checkpoints_sampling_and_penalties_are_left_out(kind: str) -> None:
    model, batch = of_either_kind(kind, "bart", [[6, 7, 8, 1], [9, 1]])
    plain = model.write(batch, NEW)
    settings = model.model.generation_config
    settings.update(**WILD)
    before = settings.to_dict()
    assert model.write(batch, NEW) == plain
    assert model.model.generation_config.to_dict() == before  # and it is saved as it was
    changed = model.model.generate(
        input_ids=batch.tokens.ids[:1] if kind == "causal" else batch.shared.ids[:1], max_new_tokens=NEW
    )
    assert changed[0].tolist()[-len(plain[0]) :] != plain[0]  # they would have changed the answer


def test_writing_in_training_has_no_dropout_and_leaves_the_mode() -> None:
    model, step, prompts = causal("llama", Lora(r=4, lora_dropout=0.9, merge=False))
    model.module.eval()
    expected = [naive(step, ids, {2}) for ids in prompts]
    model.module.train()
    assert model.write(causal_batch(model, prompts), NEW) == expected
    assert all(part.training for part in model.module.modules())


@pytest.mark.parametrize("kind", ["causal", "decoder"])
def test_answers_beyond_the_models_positions_are_refused(kind: str) -> None:
    if kind == "causal":
        config = transformers.GPT2Config(
            vocab_size=len(tiny.tokenizer()), n_embd=32, n_layer=1, n_head=4, n_positions=32
        )
        model: Any = tiny.HFCausal("short", tiny.tokenizer(), transformers.GPT2LMHeadModel(config).eval(), False, None)
        batch = causal_batch(model, [[5] * 25, [6] * 3])
        limit, most = 32, 7
    else:
        model = tiny_t5.backbone("bart")
        batch = encoded_batch(model, [[6, 1]], [(0, [1] + [5] * 239)])
        limit, most = 256, 16
    assert len(model.write(batch, most)) == len(batch.answer)
    with pytest.raises(InputError, match=f"need {limit + 1} positions, and the model has {limit}; lower"):
        model.write(batch, most + 1)
