"""One score a text, for every type of model that transformers has: tiny models of all of them, and what each gives.

python tests/every_type.py        # writes docs/architectures.md, which tests/test_every_type.py holds to be true
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import tiny_encoders
import tiny_t5
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rerankkit import engine
from rerankkit.backbones.hf_causal import hf_causal
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.backbones.hf_encoder_decoder import hf_encoder_decoder
from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.linear import Linear
from rerankkit.heads.logit import Logit
from rerankkit.heads.yes_no import yes_no
from rerankkit.protocols import Ask, Group
from rerankkit.settings import Engine
from rerankkit.strategies.pointwise import Pointwise

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
LENGTHS = [12, 15, 16, 17, 18, 24, 31, 32, 33, 34, 47, 48, 49, 64, 65, 90]
"""Tokens of the prompts: on each side of every threshold in SHAPE, and of its multiples."""
WRITTEN = 4
MARGIN = 1e-4
"""By how much the likeliest token must lead the next one for the text that is written to be told."""
TOLERANCE = 1e-5
LARGEST = 4_000_000
_VALUES: dict[int, str] = {
    32: "hidden_size d_model n_embd dim emb_dim embedding_size word_embed_proj_dim",
    48: "intermediate_size ffn_dim d_inner n_inner hidden_dim d_ff dff ffn_hidden_size encoder_ffn_dim decoder_ffn_dim "
    "feed_forward_size",
    2: "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_decoder_layers mamba_expand "
    "num_encoder_layers num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_k "
    "linear_num_key_heads type_vocab_size",
    4: "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads rotary_dim "
    "num_decoder_attention_heads num_encoder_attention_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts mamba_n_heads mamba_num_heads time_step_rank mamba_dt_rank linear_num_value_heads",
    8: "head_dim d_kv qk_nope_head_dim qk_rope_head_dim v_head_dim hidden_size_per_layer_input state_size "
    "ssm_state_size mamba_d_state linear_key_head_dim linear_value_head_dim relative_attention_num_buckets",
    128: "max_position_embeddings n_positions n_ctx max_source_positions max_encoder_position_embeddings "
    "max_decoder_position_embeddings",
    16: "sliding_window local_attention window_size attention_window attention_chunk_size expert_capacity chunk_size "
    "mamba_chunk_size moe_intermediate_size shared_expert_intermediate_size q_lora_rank kv_lora_rank mamba_d_head "
    "mamba_head_dim index_n_heads index_head_dim",
    1: "n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace mamba_n_groups",
    0: "moe_layer_start_index hidden_dropout_prob attention_probs_dropout_prob",
    12: "index_topk",
    600: "vocab_size_per_layer_input",
}
SHAPE = {name: value for value, names in _VALUES.items() for name in names.split()}
SHAPE |= {"relative_attention_max_distance": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_ALL_HEADS = {"num_key_value_heads": 4}
_LATENT = (
    "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text esmc glm4_moe_lite glm_moe_dsa hy_v4 minicpm3 "
    "mistral4 youtu"
)
_LINEAR = "qwen3_next qwen3_5_text qwen3_5_moe_text qwen4_exp_text kimi_linear bailing_hybrid"
OTHERWISE: dict[str, dict[str, Any]] = {
    **{name: {"layer_types": ["linear_attention", "full_attention"], **_ALL_HEADS} for name in _LINEAR.split()},
    **{name: _ALL_HEADS for name in _LATENT.split()},
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
    "cohere_compass_text": {
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": dict.fromkeys(["full_attention", "sliding_attention"], {"rope_type": "default",
                                                                                  "rope_theta": 1e4}),
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "funnel": {"block_sizes": [1, 1], "d_head": 8, "max_position_embeddings": 512},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
                     "activation_sparsity_pattern": [0.0, 0.0]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longt5": {"local_radius": 7, "global_block_size": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "mpnet": {"relative_attention_num_buckets": 32},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "xmod": {"languages": ["en"], "default_language": "en"},
    "zamba": {"layer_types": ["mamba", "hybrid"]},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
}  # fmt: skip
"""What some types need besides, to be small or to be at all."""
_WORDS = [word for word in dict.fromkeys(tiny.WORDS) if word.islower()]


class Kind(NamedTuple):
    """How a backbone's models are made, read by rerankkit and read by transformers alone."""

    types: tuple[str, ...]
    auto: Any
    read: Any
    words: Any


_ENCODERS = {
    **modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
}
KINDS = {
    "hf_encoder.v1": Kind(
        tuple(_ENCODERS), transformers.AutoModel, hf_encoder, lambda: tiny_encoders.tokenizer("untyped")
    ),
    "hf_classifier.v1": Kind(
        tuple(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        transformers.AutoModelForSequenceClassification,
        hf_classifier,
        lambda: tiny_encoders.tokenizer("untyped"),
    ),
    "hf_causal.v1": Kind(
        tuple(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        transformers.AutoModelForCausalLM,
        hf_causal,
        tiny.tokenizer,
    ),
    "hf_encoder_decoder.v1": Kind(
        tuple(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
        transformers.AutoModelForSeq2SeqLM,
        hf_encoder_decoder,
        tiny_t5.tokenizer,
    ),
}


class Untried(Exception):
    """A type of which no tiny model is made here, with the reason."""


def cases() -> Iterator[tuple[str, str]]:
    for kind, made in KINDS.items():
        yield from ((kind, model_type) for model_type in sorted(made.types))


def outcome(kind: str, model_type: str) -> tuple[str, str]:
    """What a type comes to, and why it is refused or not tried; a broken promise is an AssertionError."""
    with tempfile.TemporaryDirectory() as at:
        try:
            _make(kind, model_type, Path(at))
        except Untried as reason:
            return "untried", str(reason)
        try:
            backbone = KINDS[kind].read(at)
            with torch.no_grad():
                _hold(kind, _parts(kind, backbone), Path(at))
        except (InputError, RunError) as refusal:
            return "refused", str(refusal).replace(at, "it")
        if backbone._passes.beyond == 0:
            return "one length", ""
        return ("shared" if backbone.shares_prefix else "whole"), ""


def _make(kind: str, model_type: str, at: Path) -> None:
    """Write a tiny model with random weights, the padding token's embedding among them."""
    from rerankkit.architectures import REFUSED

    words, made = KINDS[kind].words(), KINDS[kind]
    if model_type not in CONFIG_MAPPING:
        raise Untried("no config of its own")
    config_class = CONFIG_MAPPING[model_type]
    known = {name for parent in config_class.__mro__ for name in vars(parent).get("__annotations__", {})}
    special = {"pad_token_id": words.pad_token_id, "bos_token_id": 3, "eos_token_id": words.eos_token_id or 3}
    shape = {name: value for name, value in SHAPE.items() if name in known} | special | OTHERWISE.get(model_type, {})
    try:
        config = config_class(vocab_size=len(words) + 1, **shape)  # Qwen2's tokenizer adds an entry of its own
        if config.get_text_config() is not config:
            raise Untried("a model of several parts")
        if kind == "hf_classifier.v1":
            config.num_labels = 1
        two = config.is_encoder_decoder and kind in ("hf_encoder.v1", "hf_classifier.v1")
        if two or model_type in REFUSED:  # by its config alone
            config.save_pretrained(at)
            return
        if kind == "hf_encoder_decoder.v1":
            config.decoder_start_token_id = words.pad_token_id
        with torch.device("meta"):
            size = sum(weight.numel() for weight in made.auto.from_config(config).parameters())
        if size > LARGEST:
            raise Untried("no small config is known")
        torch.manual_seed(0)
        model = made.auto.from_config(config).eval()
    except Untried:
        raise
    except Exception as error:  # of any kind, as each type checks its config in its own way
        raise Untried(f"no tiny config is known ({type(error).__name__})") from error
    _fill(model)
    try:
        model(**_given(model, torch.tensor([[9, 10, 11, 12, 13, 14, 15, 16, 3]])))
        model.save_pretrained(at)
    except Exception as error:
        raise Untried(f"no tiny config is known ({type(error).__name__})") from error
    words.save_pretrained(at)


def _given(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids[:, :1]}
    return {"input_ids": ids}


@torch.no_grad()
def _fill(model: Any) -> None:
    """Weights that let tokens and positions matter; what keeps recurrent states stable stays."""
    draw = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if any(part in name for part in ("A_log", "dt_", ".D", "time_decay", "inv_freq")):
            continue
        noise = torch.randn(weight.shape, generator=draw)
        if weight.ndim < 2:
            weight.add_(0.1 * noise)
        else:
            weight.copy_(noise * (0.4 if "emb" in name or "wte" in name else 1.2 * weight.shape[-1] ** -0.5))


def _texts() -> tuple[str, list[str]]:
    """A query of seven words, and documents of as many as make prompts of LENGTHS tokens, for each word is one."""
    draw = torch.Generator().manual_seed(2)

    def text(words: int) -> str:
        return " ".join(_WORDS[i] for i in torch.randint(len(_WORDS), (words,), generator=draw))

    return text(7), [text(length - 10) for length in LENGTHS]


def _parts(kind: str, backbone: Any) -> Parts:
    torch.manual_seed(4)
    if kind in ("hf_encoder.v1", "hf_classifier.v1"):
        head: Any = Logit() if kind == "hf_classifier.v1" else Linear("mean")
        formatter: Any = Pair()
        collator: Any = PairCollator(LENGTHS[-1])
    elif kind == "hf_causal.v1":
        head, formatter, collator = yes_no(), Template("cat {query} {document} mat"), SequenceCollator(LENGTHS[-1])
    else:
        head, formatter = yes_no("true", "false"), Template("cat {query} {document} mat")
        collator = EncoderDecoderCollator(LENGTHS[-1])
    head.bind(backbone)
    return Parts(formatter, collator, backbone, head, Pointwise())


def _hold(kind: str, of: Parts, at: Path) -> None:
    """Hold the scores against a literal forward of each prompt by itself: alone, in batches, in the other order, after
    other work, with and without the shared prefix; and the text that is written against a loop without a cache."""
    from rerankkit.architectures import settle

    config = settle(transformers.AutoConfig.from_pretrained(at))
    plain = KINDS[kind].auto.from_pretrained(at, config=config, dtype=torch.float32).eval()
    query, documents = _texts()
    wanted = [_naive(kind, of, plain, _ids(of, query, document)) for document in documents]
    tolerance = TOLERANCE * max(1.0, max(map(abs, wanted)))
    assert max(wanted) - min(wanted) > 100 * tolerance, "the documents all score the same"
    shares = of.backbone.shares_prefix
    for shared in {shares, False}:
        of.backbone.shares_prefix = shared
        for budget, backwards in ((1, False), (100_000, False), (300, True), (100_000, False)):
            given = documents[::-1] if backwards else documents
            found = [score for _, score in sorted(engine.run(of, [Group(query, given)], Engine(budget))[0][0])]
            for length, ours, theirs in zip(LENGTHS, found[::-1] if backwards else found, wanted, strict=True):
                assert abs(ours - theirs) <= tolerance, (kind, config.model_type, shared, budget, length, ours, theirs)
    of.backbone.shares_prefix = shares
    if kind in ("hf_causal.v1", "hf_encoder_decoder.v1"):
        _hold_written(kind, of, plain, query, documents[::4])


def _ids(of: Parts, query: str, document: str) -> list[int]:
    row = engine.rows_of(of, [Ask(Group(query, [document]), (0,))])[0]
    return [*row.shared, *row.ids] if not isinstance(of.collator, EncoderDecoderCollator) else list(row.shared)


def _naive(kind: str, of: Parts, plain: Any, ids: list[int]) -> float:
    given = {"input_ids": torch.tensor([ids])}
    if kind == "hf_encoder.v1":
        return float(of.head.module(plain(**given).last_hidden_state[0].mean(0)))
    if kind == "hf_classifier.v1":
        return float(plain(**given).logits)
    yes, no = (_token(of, word) for word in ((" yes", " no") if kind == "hf_causal.v1" else ("true", "false")))
    logits = _logits(kind, plain, ids, [])
    return float(logits[yes] - logits[no])


def _token(of: Parts, word: str) -> int:
    return int(of.backbone.tokenizer(word, add_special_tokens=False)["input_ids"][0])


def _logits(kind: str, plain: Any, ids: list[int], written: list[int]) -> torch.Tensor:
    """Logits of what comes behind a prompt and what was written after it, without a cache."""
    if kind == "hf_causal.v1":
        return plain(input_ids=torch.tensor([ids + written])).logits[0, -1].float()
    start = plain.config.decoder_start_token_id
    return (
        plain(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[start, *written]])).logits[0, -1].float()
    )


def _hold_written(kind: str, of: Parts, plain: Any, query: str, documents: list[str]) -> None:
    rows = engine.rows_of(of, [Ask(Group(query, documents), (i,)) for i in range(len(documents))])
    found = of.backbone.write(engine.collate(of, rows), WRITTEN)  # type: ignore[attr-defined]
    ends = plain.generation_config.eos_token_id
    for row, answer in zip(rows, found, strict=True):
        ids, written = [*row.shared, *row.ids] if kind == "hf_causal.v1" else list(row.shared), list[int]()
        while len(written) < WRITTEN:
            best = _logits(kind, plain, ids, written).topk(2)
            if best.values[0] - best.values[1] < MARGIN:
                break
            written.append(int(best.indices[0]))
            if ends is not None and written[-1] in (ends if isinstance(ends, list) else [ends]):
                written.pop()
                break
        assert answer[: len(written)] == written, (kind, plain.config.model_type, len(ids), answer, written)


CELLS = {
    "shared": "yes, prefix shared",
    "whole": "yes",
    "one length": "yes, in batches of one length",
    "refused": "no",
    "untried": "",
}
HEADING = """# Architectures

What each type of model that transformers {version} knows comes to under rerankkit's backbones, found by
`python tests/every_type.py` with a tiny model of random weights. "yes": a document's score is the one that transformers
gives its prompt alone, without padding, whatever is beside it in a batch and whatever was scored before (float32,
within 1e-5), and so is the text that a model writes. "no": refused when it is loaded, with the reason below. Nothing
stands where a type has no such model, or where none was tried: most read images or sound, too.

"""


def page(outcomes: dict[tuple[str, str], tuple[str, str]]) -> str:
    """The table of types and the reasons of refusals, as Markdown."""
    text = HEADING.format(version=transformers.__version__.rpartition(".")[0])
    text += f"| type | {' | '.join(f'`{kind}`' for kind in KINDS)} |\n|{'---|' * (1 + len(KINDS))}\n"
    kept = {case: (found, reason) for case, (found, reason) in outcomes.items() if found != "untried"}
    for model_type in sorted({model_type for _, model_type in kept}):
        cells = (CELLS[kept.get((kind, model_type), ("untried", ""))[0]] for kind in KINDS)
        text += f"| {model_type} | {' | '.join(cells)} |\n"
    text += "\n## Why some are refused\n\n"
    reasons: dict[tuple[str, str], list[str]] = {}
    for (kind, model_type), (found, reason) in kept.items():
        if found == "refused":
            reasons.setdefault((kind, _general(reason, model_type)), []).append(model_type)
    for (kind, reason), types in sorted(reasons.items()):
        text += f"- `{kind}`, {', '.join(sorted(types))}: {reason}.\n"
    return text


def _general(reason: str, model_type: str) -> str:
    """A refusal without what it says of this one model alone."""
    reason = reason.removesuffix("; choose a model of another type")
    reason = re.sub(r" \([^)]*\)", "", reason).replace(f"of type {model_type}", "of this type")
    return re.sub(r"is a \w+,", "is another kind of model,", reason).removeprefix("it ")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page({case: outcome(*case) for case in cases()}), "utf-8")
