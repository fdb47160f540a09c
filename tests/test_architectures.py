"""One score a text whatever is beside it: what some architectures need for that, and which are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch
import transformers

from rerankkit import Reranker, engine
from rerankkit.backbones.hf_causal import hf_causal
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.heads.linear import Linear
from rerankkit.heads.logit import Logit
from rerankkit.protocols import Group, Tokens
from rerankkit.settings import Engine
from rerankkit.strategies.pointwise import Pointwise

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "initializer_range": 0.3, "pad_token_id": 0}  # fmt: skip
PAIRS = [[tiny.sentence(1, 4), tiny.sentence(50 + i, 1 + 7 * i % 40)] for i in range(12)]


def saved(at: Path, name: str, task: str = "ForSequenceClassification", words: Any = None, **shape: Any) -> Path:
    """A checkpoint of one architecture with random weights, the padding token's among them."""
    words = words or tiny_encoders.tokenizer("untyped")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = getattr(transformers, f"{name}Config")(vocab_size=len(words), num_labels=1, **shape)
        model = getattr(transformers, f"{name}{task}")(config)
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    model.save_pretrained(at)
    words.save_pretrained(at)
    return at


def classifier(folder: Path, batch_tokens: int = 100_000) -> Reranker:
    parts = Parts(Pair(), PairCollator(), hf_classifier(str(folder)), Logit(), Pointwise())
    return Reranker(parts, Engine(batch_tokens=batch_tokens))


@torch.no_grad()
def alone(folder: Path, **settings: Any) -> list[float]:
    """What transformers says of each pair by itself, by a model that has read nothing else."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for query, document in PAIRS:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **settings).eval()
        found.append(model(**words([query], [document], return_tensors="pt")).logits.item())
    return found


SHAPES: dict[str, dict[str, Any]] = {
    "ConvBert": {**SMALL, "embedding_size": 32},
    "FNet": SMALL,
    "MobileBert": {**SMALL, "embedding_size": 32, "true_hidden_size": 16, "intra_bottleneck_size": 16},
    "Yoso": SMALL,
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "initializer_range": 0.3, "pad_token_id": 0},
}


@pytest.mark.regression
@pytest.mark.parametrize("name", SHAPES)
def test_where_padding_counts_there_is_none(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, name, **SHAPES[name])
    expected = alone(folder)
    assert max(expected) - min(expected) > 1e-3
    for budget in (1, 100_000):
        assert classifier(folder, budget).compute_score(PAIRS) == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert classifier(folder).compute_score(PAIRS[::-1])[::-1] == pytest.approx(expected, abs=1e-5, rel=1e-5)


BIGBIRD = {**SMALL, "attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}


@pytest.mark.regression
def test_bigbird_draws_no_blocks(tmp_path: Path) -> None:
    """Its blocks are drawn anew at each pass, and set to full attention by the first text too short for them."""
    folder = saved(tmp_path, "BigBird", **BIGBIRD, max_position_embeddings=512)
    expected = alone(folder, attention_type="original_full")
    for given in (PAIRS, PAIRS[::-1], PAIRS):
        found = classifier(folder).compute_score(given)
        assert found == pytest.approx(expected if given is PAIRS else expected[::-1], abs=1e-5)
    one = classifier(folder)
    assert [one.compute_score(pair)[0] for pair in PAIRS] == pytest.approx(expected, abs=1e-5)
    body = hf_encoder(str(folder))
    body.save(tmp_path / "saved")
    assert hf_encoder(str(tmp_path / "saved" / "backbone")).module.config.attention_type == "original_full"


@pytest.mark.parametrize("name", ["Nystromformer"])
def test_what_cannot_keep_a_score_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{name}Config")(num_labels=1, **SMALL)
    config.save_pretrained(tmp_path)
    for part in (hf_classifier, hf_encoder):
        with pytest.raises(InputError, match=f"of type {config.model_type}, which .* cannot read: padding changes"):
            part(str(tmp_path))


LONGFORMER = {**SMALL, "attention_window": [4, 4], "max_position_embeddings": 258, "pad_token_id": 1}


@pytest.mark.regression
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_first_token_that_is_read_sees_the_whole_text(pooling: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path, "Longformer", "Model", tiny_encoders.tokenizer("bytes"), **LONGFORMER)
    backbone, head = hf_encoder(str(folder)), Linear(pooling)
    head.bind(backbone)
    of = Parts(Pair(), PairCollator(256), backbone, head, Pointwise())
    documents = [document for _, document in PAIRS] + [PAIRS[5][1] + " cat"]
    orders, _ = engine.run(of, [Group(PAIRS[0][0], documents)], Engine())
    found = dict(orders[0])
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for position, document in enumerate(documents):
        given = backbone.tokenizer([PAIRS[0][0]], [document], return_tensors="pt")
        first = torch.zeros_like(given["input_ids"])
        first[:, 0] = pooling == "cls"
        with torch.no_grad():
            states = model(**given, global_attention_mask=first).last_hidden_state[0]
            wanted = head.module(states[0] if pooling == "cls" else states.mean(0)).item()
        assert found[position] == pytest.approx(wanted, abs=1e-5)
    assert abs(found[5] - found[len(PAIRS)]) > 1e-4  # the last word counts


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("Qwen3", {"is_causal": False}),
    ("Llama", {"is_causal": False}),
    ("Gemma", {"use_bidirectional_attention": True}),
    ("Gemma2", {"use_bidirectional_attention": True, "layer_types": ["full_attention"] * 2}),
    ("Gemma3Text", {"use_bidirectional_attention": True, "layer_types": ["full_attention"] * 2}),
]


@pytest.mark.regression
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_no_prefix_is_shared_where_tokens_see_what_follows(name: str, way: dict[str, Any], tmp_path: Path) -> None:
    words = tiny.tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = getattr(transformers, f"{name}Config")(vocab_size=len(words), **{**tiny.SHAPE, **way})
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    of = tiny.parts(of=hf_causal(str(tmp_path)))
    groups = [tiny.group(number, 4) for number in (1, 2)]
    orders, _ = engine.run(of, groups, Engine())
    for group, order in zip(groups, orders, strict=True):
        assert [score for _, score in sorted(order)] == pytest.approx(tiny.naive_scores(of, group), abs=1e-4)


ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
    "longrope": {"rope_type": "longrope", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 24,
                 "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]},
}  # fmt: skip


def scaled(at: Path, name: str, kind: str) -> Path:
    """A model whose rotary positions are others in texts of more than 24 tokens."""
    words = tiny.tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        shape = {**tiny.SHAPE, "max_position_embeddings": 24 if kind == "dynamic" else 96, "sliding_window": None}
        config = getattr(transformers, f"{name}Config")(vocab_size=len(words), **shape, rope_parameters=ROPES[kind])
        model = transformers.AutoModelForCausalLM.from_config(config)
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name or "qkv" in name:
                weight.data *= 2  # so that positions matter
    model.save_pretrained(at)
    words.save_pretrained(at)
    return at


@pytest.mark.regression
@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("share", [True, False])
def test_positions_do_not_depend_on_the_longest_text_of_a_batch(share: bool, kind: str, tmp_path: Path) -> None:
    folder = scaled(tmp_path, "Llama", kind)
    of = tiny.parts(of=hf_causal(str(folder), share_prefix=share), collator=SequenceCollator(96))
    of.head.bind(of.backbone)  # whose check reads a text of its own
    group = tiny.group(3, 14, longest=50)
    lengths = [len(row.ids) + len(row.shared) for row in engine.encode(of, engine_asks(group))]
    assert min(lengths) <= 24 < max(lengths)
    wanted = []
    for document in group.docs:
        fresh = tiny.parts(of=hf_causal(str(folder)))
        wanted += tiny.naive_scores(fresh, Group(group.query, [document]))
    for asked in (group, Group(group.query, group.docs[::-1]), group):
        orders, _ = engine.run(of, [asked], Engine())
        found = [score for _, score in sorted(orders[0])]
        assert (found if asked is group else found[::-1]) == pytest.approx(wanted, abs=1e-4)
    short = [i for i, length in enumerate(lengths) if length <= 24]
    orders, _ = engine.run(of, [Group(group.query, [group.docs[i] for i in short])], Engine())
    assert [score for _, score in sorted(orders[0])] == pytest.approx([wanted[i] for i in short], abs=1e-4)


@pytest.mark.regression
@pytest.mark.parametrize("longer", [40, 90])
def test_positions_are_not_those_of_a_text_that_another_thread_reads(longer: int, tmp_path: Path) -> None:
    """It may read one between the moment a batch is laid out and the moment its positions are computed."""
    from rerankkit.architectures import Passes

    folder = scaled(tmp_path, "Llama", "dynamic")
    right = hf_causal(str(folder)).model(input_ids=torch.arange(30, 60)[None]).logits
    loaded = hf_causal(str(folder)).model
    for model in (loaded, copy.deepcopy(loaded)):
        ids = torch.arange(30, 60)[None]
        for tokens, _ in Passes(model).of(Tokens(ids, torch.ones_like(ids))):
            model(input_ids=torch.arange(longer)[None])
            assert torch.equal(model(input_ids=tokens.ids).logits, right)


def engine_asks(group: Group) -> list[Any]:
    from rerankkit.protocols import Ask

    return [Ask(group, (i,)) for i in range(len(group.docs))]


@pytest.mark.regression
@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "default"}, 128),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0}, 128),
    ],
)  # fmt: skip
def test_a_model_reads_as_far_as_its_positions_are_scaled(rope: dict[str, Any], limit: int, tmp_path: Path) -> None:
    shape = {**tiny.SHAPE, "max_position_embeddings": 128}
    words = tiny.tokenizer()
    config = transformers.Qwen3Config(vocab_size=len(words), **shape, rope_parameters={**rope, "rope_theta": 1e4})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    backbone = hf_causal(str(tmp_path))
    group = Group(tiny.sentence(1, 5), [tiny.sentence(2, 700)])
    orders, bill = engine.run(tiny.parts(of=backbone, collator=SequenceCollator(limit)), [group], Engine())
    assert bill.total.tokens == limit
    with pytest.raises(InputError, match=f"max_length = {limit + 1}, but the model reads {limit} tokens"):
        engine.run(tiny.parts(of=backbone, collator=SequenceCollator(limit + 1)), [group], Engine())


@pytest.mark.regression
@pytest.mark.parametrize("kind", ["classifier", "linear", "colbert"])
def test_a_reranker_left_in_training_mode_ranks_without_dropout(kind: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.cfg"
    recipe.write_text(tiny_bert.model_sections(kind, dropout=0.5))
    reranker = Reranker.from_recipe(recipe)
    reranker.untrained = False
    query, documents = PAIRS[0][0], [document for _, document in PAIRS]
    expected, vectors = reranker.rank(query, documents), kind == "colbert" and reranker.encode(documents)
    backbone = reranker.parts.backbone.module
    for modules in (backbone.modules(), list(backbone.modules())[-3:]):  # all of it, or a part
        for module in modules:
            module.training = True
        before = [module.training for module in backbone.modules()]
        assert reranker.rank(query, documents) == expected
        assert reranker.compute_score([[query, documents[0]]])[0] == pytest.approx(
            next(one.score for one in expected if one.index == 0), abs=1e-5
        )
        if vectors:
            assert all(torch.equal(a, b) for a, b in zip(reranker.encode(documents), vectors, strict=True))
        assert [module.training for module in backbone.modules()] == before
        backbone.eval()
