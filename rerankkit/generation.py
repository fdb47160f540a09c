"""Writing on after each row of a batch, always the likeliest token, through transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rerankkit.architectures import Passes, positions
from rerankkit.errors import InputError, RunError
from rerankkit.lazy import torch, transformers
from rerankkit.protocols import Tokens
from rerankkit.seq2seq import EncoderState


def write_after(model: Any, tokenizer: Any, tokens: Tokens, max_new_tokens: int, passes: Passes) -> list[list[int]]:
    """What a causal language model goes on with after each row."""
    refuse_beyond_positions(model, tokens, max_new_tokens)
    found: list[list[int]] = [[] for _ in range(len(tokens.ids))]
    for some, rows in passes.of(tokens, max_new_tokens):
        for row, answer in zip(rows.tolist(), _write_after(model, tokenizer, some, max_new_tokens), strict=True):
            found[row] = answer
    return found


def _write_after(model: Any, tokenizer: Any, tokens: Tokens, max_new_tokens: int) -> list[list[int]]:
    width = tokens.ids.shape[1]
    # what is written stands right behind what is read, so the padding goes to the left
    from_right = torch.arange(width, device=tokens.ids.device) - (width - tokens.mask.sum(1, keepdim=True))
    ids, mask = tokens.ids.gather(1, from_right % width), tokens.mask.gather(1, from_right % width)
    written = _generate(model, tokenizer, max_new_tokens, input_ids=ids, attention_mask=mask)
    return _answers(written[:, width:], model, tokenizer)


def write_decoded(
    model: Any, tokenizer: Any, tokens: Tokens, encoded: EncoderState, max_new_tokens: int
) -> list[list[int]]:
    """What a decoder goes on with after each row, given what its encoder read. Rows of one length go together, since
    not every decoder can leave out padding at its left."""
    refuse_beyond_positions(model, tokens, max_new_tokens)
    lengths = tokens.mask.sum(1)
    found: list[list[int]] = [[] for _ in range(len(lengths))]
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        state = encoded.take(rows)
        written = _generate(
            model,
            tokenizer,
            max_new_tokens,
            # which has every field that models of experts ask for, too
            encoder_outputs=transformers.modeling_outputs.MoeModelOutputWithPast(last_hidden_state=state.states),
            attention_mask=state.mask,
            decoder_input_ids=tokens.ids[rows, :length],
        )
        for row, answer in zip(rows.tolist(), _answers(written[:, length:], model, tokenizer), strict=True):
            found[row] = answer
    return found


def refuse_beyond_positions(model: Any, tokens: Tokens, max_new_tokens: int) -> None:
    limit, longest = positions(model.config), int(tokens.mask.sum(1).max())
    if limit is not None and longest + max_new_tokens > limit:
        raise InputError(
            f"a prompt of {longest} tokens and an answer of up to {max_new_tokens} need {longest + max_new_tokens} "
            f"positions, and the model has {limit}; lower the collator's max_length or the head's max_new_tokens"
        )


def _generate(model: Any, tokenizer: Any, max_new_tokens: int, **inputs: torch.Tensor) -> torch.Tensor:
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if ends else 0
    settings = transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
        decoder_start_token_id=_start(inputs),
    )
    finite: list[torch.Tensor] = []

    def watch(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        finite.append(logits.amax(-1).isfinite().all())  # the greatest of some of which one is NaN is NaN
        return logits

    watching = transformers.LogitsProcessorList([watch])
    training = model.training
    model.eval()
    with _without_defaults(model):
        written = model.generate(generation_config=settings, logits_processor=watching, **inputs)
    model.train(training)
    if not torch.stack(finite).all():
        raise RunError(
            "the model's logits are not finite where it writes an answer, so the answer would mean nothing "
            "(fp16 overflows easily: try bf16 or fp32)"
        )
    return written


def _start(inputs: dict[str, torch.Tensor]) -> int | None:
    """`generate` puts this token before a decoder's rows unless they begin with it, as ours do."""
    return int(inputs["decoder_input_ids"][0, 0]) if "decoder_input_ids" in inputs else None


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """A checkpoint's own sampling, penalties and forced tokens fill every setting that `generate` is not given."""
    own = model.generation_config
    model.generation_config = transformers.GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _ends(model: Any, tokenizer: Any) -> Sequence[int]:
    """The tokens that end an answer."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    return [] if found is None else [found] if isinstance(found, int) else found


def _answers(written: torch.Tensor, model: Any, tokenizer: Any) -> list[list[int]]:
    """Each row up to its end token, behind which there is padding."""
    ends = set(_ends(model, tokenizer))
    rows = written.tolist()
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in rows]
