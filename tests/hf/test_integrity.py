"""Each way in which a checkpoint can differ from its architecture: run as it was saved, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import tiny_t5
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerankkit import Reranker
from rerankkit.errors import InputError, RunError
from rerankkit.registry import registry

Settings = dict[str, Any]
Weights = dict[str, torch.Tensor]
FOLDERS: dict[str, Callable[[], Path]] = {
    "classifier": tiny_bert.classifier,
    "encoder": tiny_bert.encoder,
    "causal": lambda: tiny.folder("llama"),
    "tied": lambda: tiny.folder("qwen3"),
    "encoder_decoder": tiny_t5.folder,
}
BACKBONES = {"tied": "hf_causal.v1"} | {
    kind: f"hf_{kind}.v1" for kind in ("classifier", "encoder", "causal", "encoder_decoder")
}
QUERY, DOCUMENTS = "open a file in python", ["the open function returns a file", "a cat sat on the mat", "sort a list"]


def changed(
    at: Path,
    kind: str,
    config: Callable[[Settings], Any] = lambda settings: None,
    weights: Callable[[Weights], Any] = lambda tensors: None,
) -> Path:
    """A copy of a tiny checkpoint, with its config.json and its weights edited in place."""
    folder = Path(shutil.copytree(FOLDERS[kind](), at / kind))
    settings = json.loads((folder / "config.json").read_text())
    config(settings)
    (folder / "config.json").write_text(json.dumps(settings))
    tensors = load_file(folder / "model.safetensors")
    weights(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(kind: str, folder: Path) -> Any:
    return registry.backbones.get(BACKBONES[kind])(str(folder))


def states(kind: str, folder: Path) -> torch.Tensor:
    """What a plain forward pass of the loaded model gives."""
    module = load(kind, folder).module
    ids = torch.tensor([[5, 9, 7, 8, 12]])
    inputs = {"decoder_input_ids": ids} if kind == "encoder_decoder" else {}
    with torch.no_grad():
        return module(input_ids=ids, **inputs)[0]


def adding(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[Weights], Any]:
    return lambda tensors: tensors.update({name: torch.ones(*shape, dtype=dtype)})


LAYER = {
    "classifier": "bert.encoder.layer.0.attention.self",
    "encoder": "encoder.layer.0.attention.self",
    "causal": "model.layers.0.self_attn",
    "tied": "model.layers.1.mlp",
    "encoder_decoder": "encoder.block.0.layer.0.SelfAttention",
}
WRONG: dict[str, tuple[str, Callable[[Weights], Any], str]] = {
    **{
        f"weights that {kind} does not read": (kind, adding(f"{path}.gate.weight", 4, 4), rf"{path}.gate.weight, so it")
        for kind, path in LAYER.items()
    },
    "a layer more than the config says": ("causal", adding("model.layers.2.mlp.up_proj.weight", 48, 32), "does not"),
    "a layer more, with the base model's name": ("encoder", adding("bert.encoder.layer.2.x.weight", 2), "does not"),
    "a second part of a classifier": ("classifier", adding("classifier.dense.weight", 4, 4), "classifier.dense"),
    "a layer before a classifier": ("classifier", adding("pre_classifier.weight", 32, 32), "pre_classifier.weight"),
    "an unknown layer beside a language model": ("causal", adding("projector.0.weight", 4, 32), "projector.0.weight"),
    "an unknown layer of a bare encoder": ("encoder", adding("relative_bias.weight", 4, 4), "relative_bias.weight"),
    "a bias in a mask's place": ("causal", adding("model.layers.0.attn.bias", 32), "attn.bias"),
    **{
        f"left over: {name}": (kind, adding(f"{LAYER[kind]}.{name}", 4), "scales of a quantisation")
        for kind, name in [
            ("classifier", "query.weight_scale_inv"), ("encoder", "query.SCB"), ("causal", "q_proj.weight_scale"),
            ("causal", "q_proj.input_scale"), ("causal", "k_scale"), ("tied", "up_proj.scales"),
            ("tied", "up_proj.qzeros"), ("encoder_decoder", "q.weight.absmax"), ("causal", "q_proj.weight_packed"),
        ]
    },
    **{
        f"left over: {name}": (kind, adding(name, 4, 4), "an adapter that was not folded in")
        for kind, name in [
            ("causal", "model.layers.0.self_attn.q_proj.lora_A.weight"),
            ("tied", "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"),
            ("classifier", "bert.encoder.layer.0.attention.self.query.lora_magnitude_vector"),
            ("encoder", "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"),
        ]
    },
    **{
        f"whole numbers in {kind}": (
            kind,
            lambda tensors, name=name: tensors.update({name: tensors[name].mul(9).to(torch.int8)}),
            "stored as whole numbers",
        )
        for kind, name in [
            ("causal", "model.layers.0.self_attn.q_proj.weight"),
            ("classifier", "bert.encoder.layer.0.attention.self.query.weight"),
            ("encoder", "encoder.layer.0.attention.self.query.weight"),
        ]
    },
}  # fmt: skip


@pytest.mark.regression
@pytest.mark.parametrize(("kind", "weights", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_would_be_another_model_is_refused(
    kind: str, weights: Callable[[Weights], Any], reason: str, tmp_path: Path
) -> None:
    folder = changed(tmp_path, kind, weights=weights)
    with pytest.raises(InputError, match=reason) as refused:
        load(kind, folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("kind", LAYER)
def test_what_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    lacking = next(name for name in load_file(FOLDERS[kind]() / "model.safetensors") if name.startswith(LAYER[kind]))
    folder = changed(tmp_path, kind, weights=lambda tensors: tensors.pop(lacking))
    with pytest.raises(RunError, match=f"lacks weights of .*{lacking}"):
        load(kind, folder)


HARMLESS = {
    "causal": {
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,), "model.layers.1.attn.bias": (1, 1, 8, 8),
        "model.layers.1.attn.masked_bias": (1,), "score.weight": (1, 32), "v_head.summary.weight": (1, 32),
        "mtp.layers.0.weight": (4, 4),
    },
    "encoder": {
        "cls.predictions.bias": (9,), "cls.seq_relationship.weight": (2, 32), "embeddings.position_ids": (1, 512),
        "classifier.weight": (1, 32), "lm_head.dense.weight": (32, 32), "linear.weight": (8, 32),
        "pooler.x.weight": (2,),
    },
    "classifier": {
        "cls.predictions.transform.dense.weight": (32, 32), "bert.embeddings.position_ids": (1, 512),
        "bert.embeddings.token_type_ids": (1, 512), "cls.predictions.decoder.weight": (9, 32),
        "bert.pooler.extra.weight": (2, 2),
    },
    "encoder_decoder": {"encoder.version": (1,), "decoder.embed_positions._float_tensor": (1,)},
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
def test_buffers_poolers_and_heads_of_pretraining_may_stay_unread(kind: str, tmp_path: Path) -> None:
    extra = {name: torch.ones(shape) for name, shape in HARMLESS[kind].items()}
    folder = changed(tmp_path, kind, weights=lambda tensors: tensors.update(extra))
    assert torch.equal(states(kind, folder), states(kind, FOLDERS[kind]()))


@pytest.mark.parametrize("stored", ["absent", "equal", "another"])
def test_a_tied_output_layer_is_what_the_file_holds(stored: str, tmp_path: Path) -> None:
    """Absent or equal it is the embeddings; another one that the file holds counts, also when saved again."""
    torch.manual_seed(1)
    other = torch.randn(load_file(FOLDERS["tied"]() / "model.safetensors")["model.embed_tokens.weight"].shape)

    def edit(tensors: Weights) -> None:
        tensors.pop("lm_head.weight", None)
        if stored != "absent":
            tensors["lm_head.weight"] = other if stored == "another" else tensors["model.embed_tokens.weight"].clone()

    folder = changed(tmp_path, "tied", weights=edit)
    found = states("tied", folder)
    assert torch.equal(found, states("tied", FOLDERS["tied"]())) == (stored != "another")
    load("tied", folder).save(tmp_path / "saved")
    assert torch.equal(states("tied", tmp_path / "saved" / "backbone"), found)


@pytest.mark.parametrize(
    ("architecture", "task", "new"),
    [
        (architecture, task, task != "ForSequenceClassification")
        for architecture in ("Roberta", "Electra", "ModernBert")
        for task in ("ForMaskedLM", "ForSequenceClassification", "Model")
    ]
    + [("Roberta", "ForTokenClassification", True), ("Electra", "ForPreTraining", True)],
)
def test_bodies_of_other_tasks_load(architecture: str, task: str, new: bool, tmp_path: Path) -> None:
    """With the classifier that is there, or a new one; the encoder is the same in any case."""
    _, kind, shape = tiny_encoders.ENCODERS[architecture.lower()]
    words = tiny_encoders.tokenizer(kind)
    config = getattr(transformers, f"{architecture}Config")(vocab_size=len(words), num_labels=1, **shape)
    model = getattr(transformers, f"{architecture}{task}")(config).eval()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert load("classifier", tmp_path).untrained is new
    ids = torch.tensor([[0, 9, 7, 8, 2]])
    with torch.no_grad():
        right = model.base_model(input_ids=ids).last_hidden_state
        assert torch.allclose(load("encoder", tmp_path).module(input_ids=ids).last_hidden_state, right, atol=1e-6)


@pytest.mark.regression
@pytest.mark.parametrize("scheme", ["relative_key", "relative_key_query", "alibi", "rotary"])
@pytest.mark.parametrize("kind", ["classifier", "encoder"])
def test_positions_that_transformers_has_dropped_are_refused(kind: str, scheme: str, tmp_path: Path) -> None:
    folder = changed(tmp_path, kind, lambda settings: settings.update(position_embedding_type=scheme))
    with pytest.raises(InputError, match=f"position_embedding_type = '{scheme}'.*absolute positions alone"):
        load(kind, folder)
    plain = changed(tmp_path / "plain", kind, lambda settings: settings.update(position_embedding_type="absolute"))
    assert torch.equal(states(kind, plain), states(kind, FOLDERS[kind]()))


@pytest.mark.regression
def test_relative_positions_are_noticed_by_their_weights_alone(tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    folder = changed(tmp_path, "classifier", weights=adding(name, 1023, 8))
    with pytest.raises(InputError, match=f"1 weights that the bert .* does not read, such as {name}"):
        Reranker.from_pretrained(folder)


CODE = {
    "classifier": {"AutoModelForSequenceClassification": "modeling_own.OwnForSequenceClassification"},
    "encoder": {"AutoModel": "org/repository--modeling_own.OwnModel", "AutoConfig": "configuration_own.OwnConfig"},
    "causal": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM", "AutoModel": "modeling_own.OwnModel"},
    "tied": {"AutoConfig": "configuration_own.OwnConfig"},
    "encoder_decoder": {"AutoModelForSeq2SeqLM": "modeling_own.OwnForConditionalGeneration"},
}


@pytest.mark.regression
@pytest.mark.parametrize("kind", CODE)
def test_code_of_a_repository_is_not_replaced_without_a_word(kind: str, tmp_path: Path) -> None:
    folder = changed(tmp_path, kind, lambda settings: settings.update(auto_map=CODE[kind], attends_backwards=True))
    with pytest.raises(InputError, match=r"auto_map: .*\b(configuration|modeling)_own.Own.* never run") as refused:
        load(kind, folder)
    assert "sets attends_backwards, which" in str(refused.value) and "native_class = true" in str(refused.value)


@pytest.mark.parametrize("kind", CODE)
def test_transformers_own_class_can_be_accepted(kind: str, tmp_path: Path) -> None:
    folder = changed(tmp_path, kind, lambda settings: settings.update(auto_map=CODE[kind]))
    accepted = registry.backbones.get(BACKBONES[kind])(str(folder), native_class=True)
    accepted.save(tmp_path / "saved")  # it is transformers' own now, and needs no leave any more
    assert torch.equal(states(kind, tmp_path / "saved" / "backbone"), states(kind, FOLDERS[kind]()))


def test_transformers_own_class_can_be_accepted_of_a_published_checkpoint(tmp_path: Path) -> None:
    folder = changed(tmp_path, "classifier", lambda settings: settings.update(auto_map=CODE["classifier"]))
    with pytest.raises(InputError, match="model.backbone.native_class"):
        Reranker.from_pretrained(folder)
    accepted = Reranker.from_pretrained(folder, {"model.backbone.native_class": True})
    right = Reranker.from_pretrained(tiny_bert.classifier()).rank(QUERY, DOCUMENTS)
    assert accepted.rank(QUERY, DOCUMENTS) == right


@pytest.mark.regression
@pytest.mark.parametrize("code", [{"AutoTokenizer": ["own.Slow", "own.Fast"]}, ["own.Slow", None]])
def test_code_of_a_tokenizer_is_not_replaced_without_a_word(code: Any, tmp_path: Path) -> None:
    folder = changed(tmp_path, "causal")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": code}))
    with pytest.raises(InputError, match=r"tokenizer_config.json names code .*own.Slow.*native_class = true"):
        load("causal", folder)


def test_code_that_reads_images_and_texts_only_is_no_code_of_the_model(tmp_path: Path) -> None:
    readers = {"AutoProcessor": "processing_own.Own", "AutoTokenizer": [None, None]}
    folder = changed(tmp_path, "causal", lambda settings: settings.update(auto_map=readers))
    assert torch.equal(states("causal", folder), states("causal", FOLDERS["causal"]()))


def with_tokenizer(kind: str, at: Path, add: list[str], special: bool = False) -> Path:
    folder = changed(at, kind)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.add_tokens(add, special_tokens=special)
    words.save_pretrained(folder)
    return folder


@pytest.mark.regression
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", BACKBONES)
def test_a_tokenizer_with_more_entries_than_embeddings_is_refused(kind: str, special: bool, tmp_path: Path) -> None:
    rows = load(kind, FOLDERS[kind]()).module.get_input_embeddings().weight.shape[0]
    folder = with_tokenizer(kind, tmp_path, [f"<new-{i}>" for i in range(rows)], special)
    with pytest.raises(InputError, match=rf"embeddings for {rows:,} \('<new-\d+>', .*would have none"):
        load(kind, folder)


def test_a_tokenizer_with_fewer_entries_than_embeddings_loads(tmp_path: Path) -> None:
    """Embeddings are often padded to a round number of rows."""

    def pad(tensors: Weights) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], torch.zeros(24, 32)])

    rows = json.loads((FOLDERS["causal"]() / "config.json").read_text())["vocab_size"]
    folder = changed(tmp_path, "causal", lambda settings: settings.update(vocab_size=rows + 24), pad)
    found, wanted = states("causal", folder)[..., :rows], states("causal", FOLDERS["causal"]())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)  # a product of other widths rounds otherwise


@pytest.mark.regression
@pytest.mark.parametrize("kind", ["classifier", "encoder"])
def test_types_without_an_embedding_are_refused(kind: str, tmp_path: Path) -> None:
    prefix = "bert." if kind == "classifier" else ""
    name = f"{prefix}embeddings.token_type_embeddings.weight"
    folder = changed(
        tmp_path,
        kind,
        lambda settings: settings.update(type_vocab_size=1),
        lambda tensors: tensors.update({name: tensors[name][:1].clone()}),
    )
    recipe = "cross_encoder" if kind == "classifier" else "cross_encoder_new_head"
    with pytest.raises(InputError, match=r"2 types, and the model has embeddings for 1 \(type_vocab_size\)"):
        reranker = Reranker.from_recipe(recipe, {"model.backbone.name": str(folder), "model.backbone.lora": None})
        reranker.untrained = False
        reranker.rank(QUERY, DOCUMENTS)


@pytest.mark.regression
@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"architectures": ["LayerWiseMiniCPMForCausalLM"], "model_type": "minicpm", "auto_map": {
            "AutoModelForCausalLM": "modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM"}}, "MiniCPM reranker"),
        ({"architectures": ["CostWiseGemmaForCausalLM"], "model_type": "cost_wise_gemma"}, "Gemma 2 reranker"),
        ({"architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.JinaForRanking"}}, "listwise"),
    ],
    ids=["minicpm", "gemma2", "jina-v3"],
)  # fmt: skip
def test_a_family_that_no_part_knows_is_called_what_it_is(settings: Settings, what: str, tmp_path: Path) -> None:
    folder = changed(tmp_path, "tied", lambda config: config.update(settings))
    with pytest.raises(InputError, match=f"is .*{what}.*: .* yet, so choose another reranker"):
        Reranker.from_pretrained(folder)


@pytest.mark.regression
def test_a_class_that_transformers_lacks_is_no_language_model(tmp_path: Path) -> None:
    folder = changed(tmp_path, "tied", lambda config: config.update(architectures=["OwnForRanking"]))
    with pytest.raises(InputError, match="is a OwnForRanking, a class that transformers does not have"):
        Reranker.from_pretrained(folder)


NEW_HEADS = [pytest.param(name, marks=pytest.mark.regression) for name in ("colbert", "cross_encoder_new_head")]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["cross_encoder", "llm_pointwise", *NEW_HEADS])
def test_torchs_default_dtype_changes_no_score(recipe: str, default: torch.dtype) -> None:
    folders = {
        "cross_encoder": tiny_bert.classifier,
        "colbert": tiny_bert.with_projection,
        "llm_pointwise": tiny.folder,
    }
    name = str(folders.get(recipe, tiny_bert.encoder)())
    overrides: Settings = {"model.backbone.name": name, "model.backbone.lora": None}
    if recipe == "colbert":
        overrides |= {"model.head.bias": True, "model.head.dim": 24}

    def scores() -> list[float]:
        torch.manual_seed(5)
        reranker = Reranker.from_recipe(recipe, overrides)
        if recipe == "cross_encoder_new_head":
            torch.nn.init.constant_(reranker.parts.head.module[1].weight, 0.1)
        reranker.untrained = False
        return [ranked.score for ranked in reranker.rank(QUERY, DOCUMENTS)]

    right = scores()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        assert scores() == right
    finally:
        torch.set_default_dtype(before)


@pytest.mark.regression
def test_a_decoder_of_modernbert_ranks(tmp_path: Path) -> None:
    """Its `get_decoder` gives the output layer, which it calls `decoder`."""
    words = tiny.tokenizer()
    torch.manual_seed(2)
    shape = {**tiny.SHAPE, "num_hidden_layers": 3, "local_attention": 512, "cls_token_id": 3, "sep_token_id": 2}
    config = transformers.ModernBertDecoderConfig(vocab_size=len(words), **shape)
    transformers.ModernBertDecoderForCausalLM(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    of = tiny.parts(of=registry.backbones.get("hf_causal.v1")(str(tmp_path)))
    group = tiny.group(3, 4)
    found = {ranked.index: ranked.score for ranked in Reranker(of).rank(group.query, group.docs)}
    assert [found[i] for i in range(4)] == pytest.approx(tiny.naive_scores(of, group), abs=1e-4)
