"""The encoder-decoder backbone: logits, choices and likelihoods as transformers', alone, batched and padded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import tiny_t5
import torch
import transformers

from rerankkit import engine
from rerankkit.backbones.hf_encoder_decoder import HFEncoderDecoder, hf_encoder_decoder
from rerankkit.causal_lm import token_logits
from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.errors import InputError, RunError
from rerankkit.lora import Lora
from rerankkit.protocols import Batch, Piece, Prompt
from rerankkit.seq2seq import EncoderState
from rerankkit.settings import Engine

GROUPS = [tiny.group(number, 4) for number in (1, 2)]


def moved(model: HFEncoderDecoder) -> HFEncoderDecoder:
    """A model whose fresh adapter does something."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.module.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def batch_of(model: HFEncoderDecoder, prompts: Sequence[Prompt]) -> Batch:
    collator = EncoderDecoderCollator(256)
    rows = collator.encode(prompts, model.tokenizer)
    return collator.collate(rows, model.tokenizer, list(dict.fromkeys(row.shared for row in rows)))


def asking(number: int, words: int, answer: str, role: Any = "fixed") -> tuple[str, Prompt]:
    """A prompt with what its model is to have written, and its text."""
    document = tiny.sentence(number, words)
    pieces = (
        Piece("Document: ", "fixed"),
        Piece(document, "document"),
        Piece(answer, role, 0 if role != "fixed" else None),
    )
    return f"Document: {document}", Prompt(
        pieces, answer=2, choices=(" A", " B", " C")[: 1 + number % 3] if role == "fixed" else ()
    )


@pytest.mark.parametrize("budget", [1, 10_000])
@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_scores_are_transformers_own(architecture: str, budget: int) -> None:
    of = tiny_t5.parts(architecture)
    orders, bill = engine.run(of, GROUPS, Engine(batch_tokens=budget, prefix_tokens=budget))
    for group, order in zip(GROUPS, orders, strict=True):
        naive = tiny_t5.naive_scores(of, group)
        assert [score for _, score in sorted(order)] == pytest.approx(naive, abs=1e-4)
        assert max(naive) - min(naive) > 0.1
    texts = [tiny_t5.TEMPLATE.replace("{query}", g.query).replace("{document}", d) for g in GROUPS for d in g.docs]
    read = sum(len(of.backbone.tokenizer(text)["input_ids"]) for text in texts)
    assert bill.total.tokens == read + len(texts)  # the encoder's, and the decoder's one each


@pytest.mark.parametrize("lora", [None, Lora(r=4, merge=False)])
@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_choices_and_likelihoods_behind_a_decoder_prefix(architecture: str, lora: Lora | None) -> None:
    model = moved(tiny_t5.backbone(architecture, lora))
    start, words = model.model.config.decoder_start_token_id, model.tokenizer
    asked = [asking(i, 3 + 9 * i, "Passage" if i % 2 else "Answer Passage") for i in range(4)]
    batch = batch_of(model, [prompt for _, prompt in asked])
    assert batch.choices is not None
    with torch.no_grad():
        states = model.hidden(batch).states
    for row, (text, prompt) in enumerate(asked):
        prefix = words(prompt.pieces[2].text, add_special_tokens=False)["input_ids"]
        ids = [words(choice, add_special_tokens=False)["input_ids"][0] for choice in prompt.choices]
        theirs = tiny_t5.naive_logits(model, text, [start, *prefix])[-1, ids]
        assert batch.choices[row].tolist() == ids + [-1] * (3 - len(ids))
        ours = token_logits(states[row, batch.answer[row]], model.vocabulary(ids)).detach()
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_likelihood_of_a_query_given_its_document(architecture: str) -> None:
    model = tiny_t5.backbone(architecture)
    start, words = model.model.config.decoder_start_token_id, model.tokenizer
    asked = [asking(i, 2 + 9 * i, tiny.sentence(70 + i, 2 + 3 * i), "query") for i in range(4)]
    batch = batch_of(model, [prompt for _, prompt in asked])
    assert batch.scored is not None
    vocabulary = model.vocabulary()
    with torch.no_grad():
        logprobs = token_logits(model.hidden(batch).states, vocabulary).log_softmax(-1)
    for row, (text, prompt) in enumerate(asked):
        query = words(prompt.pieces[2].text, add_special_tokens=False)["input_ids"]
        theirs = tiny_t5.naive_logits(model, text, [start, *query]).log_softmax(-1)
        naive = sum(theirs[i, token].item() for i, token in enumerate(query))
        places = (batch.scored[row] == 0).nonzero().flatten()
        ours = logprobs[row, places - 1, batch.tokens.ids[row, places]].sum().item()
        assert places.tolist() == list(range(1, 1 + len(query)))  # not the start token
        assert ours == pytest.approx(naive, abs=1e-4)


@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_one_prompt_is_read_once_however_many_rows_share_it(architecture: str) -> None:
    model = tiny_t5.backbone(architecture)
    asked = [asking(i // 2, 5 + 20 * (i // 2), "A" if i % 2 else "A B") for i in range(6)]
    batch = batch_of(model, [prompt for _, prompt in asked])
    assert batch.shared is not None and len(batch.shared.ids) == 3
    with torch.no_grad():
        states = model.read_shared(batch.shared)
        together = model.hidden(batch, states).states
        for row in range(6):
            alone = model.hidden(batch.take(torch.tensor([row]))).states[0]
            apart = (together[row, : len(alone)] - alone).abs().max()
            assert apart < 1e-5 * max(1.0, alone.abs().max())
    whole = EncoderState(torch.rand(3, 4, 8), torch.ones(3, 4))
    assert whole.take(torch.arange(3)).states is whole.states  # each its own: nothing is copied


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("architecture", ["t5", "t5_v1_1", "bart"])
def test_lower_precision_is_near_and_the_same_in_transformers(architecture: str, dtype: Any) -> None:
    full = tiny_t5.parts(architecture)
    half = tiny_t5.parts(of=hf_encoder_decoder(str(tiny_t5.folder(architecture)), dtype=dtype))
    group = tiny.group(5, 8)
    exact, rough = (
        torch.tensor([s for _, s in sorted(engine.run(of, [group], Engine())[0][0])]) for of in (full, half)
    )
    kept = {name for name, weight in half.backbone.module.named_parameters() if weight.dtype == torch.float32}
    assert all(".wo." in name for name in kept) and bool(kept) == (dtype == "fp16" and architecture != "bart")
    assert (exact - rough).abs().max() < 0.1 * (exact.max() - exact.min())
    assert rough.tolist() == pytest.approx(
        tiny_t5.naive_scores(half, group), abs=0.1 * float(exact.max() - exact.min())
    )


@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_scale_and_bias_of_the_output_layer(architecture: str) -> None:
    vocabulary = tiny_t5.backbone(architecture).vocabulary([6, 9])
    assert vocabulary.scale == (32**-0.5 if architecture in ("t5", "umt5") else 1.0)
    assert (vocabulary.bias is not None) == (architecture == "bart")


def test_logits_made_in_an_unknown_way_are_refused() -> None:
    model = tiny_t5.backbone()
    model.module.lm_head.register_forward_hook(lambda module, given, logits: 1.2 * logits)
    with pytest.raises(RunError, match=r"in a way that hf_encoder_decoder\.v1 does not know"):
        model.vocabulary([6, 9])


def copy(tmp_path: Path, architecture: str = "t5", **settings: Any) -> Path:
    """A tiny checkpoint with changes to its config.json."""
    at = tmp_path / "model"
    shutil.copytree(tiny_t5.folder(architecture), at)
    config = json.loads((at / "config.json").read_text()) | settings
    (at / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return at


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is of type llama, which is no encoder with a decoder; hf_causal\.v1 reads"):
        hf_encoder_decoder(str(tiny.folder()))
    at = copy(tmp_path, architectures=["T5EncoderModel"])
    with pytest.raises(InputError, match="is a T5EncoderModel"):
        hf_encoder_decoder(str(at))
    with pytest.raises(InputError, match="needs prompts in two parts"):
        model = tiny_t5.backbone()
        model.hidden(Batch(batch_of(model, [asking(1, 3, "A")[1]]).tokens, torch.tensor([0])))


def test_missing_weights_and_a_missing_start_are_refused(tmp_path: Path) -> None:
    at = copy(tmp_path)
    weights = safetensors.torch.load_file(at / "model.safetensors")
    gone = next(name for name in weights if name.startswith("decoder.block.1") and name.endswith(".q.weight"))
    safetensors.torch.save_file(
        {k: v for k, v in weights.items() if k != gone}, at / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(RunError, match="lacks weights of its architecture, such as decoder.block.1"):
        hf_encoder_decoder(str(at))
    other = copy(tmp_path / "other", decoder_start_token_id=None)
    (other / "generation_config.json").unlink()
    with pytest.raises(InputError, match="does not say what its decoder begins with; add decoder_start_token_id"):
        hf_encoder_decoder(str(other))


def test_relative_positions_have_no_end_and_learned_ones_do() -> None:
    assert tiny_t5.backbone("t5").tokenizer.model_max_length > 10**9
    assert tiny_t5.backbone("bart").tokenizer.model_max_length == 256


@pytest.mark.parametrize("lora", [None, Lora(r=4, merge=True), Lora(r=4, merge=False)])
@pytest.mark.parametrize("architecture", ["t5", "t5_v1_1", "bart"])
def test_saved_folders_load_in_transformers_alone(tmp_path: Path, architecture: str, lora: Lora | None) -> None:
    model = moved(tiny_t5.backbone(architecture, lora))
    model.save(tmp_path)
    asked = torch.tensor([model.tokenizer("does the document answer")["input_ids"]])
    start = torch.tensor([[model.tokenizer.decoder_start_token_id, 9]])
    if lora is not None and not lora.merge:
        import peft

        there = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5.folder(architecture))
        there = peft.PeftModel.from_pretrained(there, tmp_path / "adapter")
    else:
        there = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "backbone")
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "backbone")
        assert words("a cat sat")["input_ids"] == model.tokenizer("a cat sat")["input_ids"]
    with torch.no_grad():
        ours, theirs = (m.eval()(input_ids=asked, decoder_input_ids=start).logits for m in (model.module, there))
    assert torch.equal(ours, theirs)
