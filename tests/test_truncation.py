"""What is cut of a query and its documents where both are long, and that it is said."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import tiny_rankers
import tiny_t5
import tiny_training as run
import torch
import transformers
from test_encoder_training import recipe

from rerankkit import Group, Reranker, load_recipe, train
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.batches import training_batch
from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.collators.late_interaction import LateInteractionCollator
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts, encode
from rerankkit.errors import InputError
from rerankkit.formatters.documents import Documents
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as PointwiseFormatter
from rerankkit.heads.choice import Choice
from rerankkit.heads.logit import Logit
from rerankkit.protocols import Ask, Row
from rerankkit.strategies.pointwise import Pointwise

pytestmark = pytest.mark.regression
LONG = tiny.sentence(7, 90)
GROUP = Group(LONG, [tiny.sentence(40 + n, 30 * n + 1) for n in range(4)], qid="q9", doc_ids=["a", "b", "c", "d"])


def cross_encoder(architecture: str = "bert", length: int = 64) -> Reranker:
    backbone = hf_classifier(str(tiny_encoders.classifier(architecture)))
    return Reranker(Parts(Pair(), PairCollator(length), backbone, Logit(), Pointwise()))


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("query", [LONG, tiny.sentence(7, 40), tiny.sentence(7, 20)])
def test_scores_are_those_of_transformers_own_cut(query: str, architecture: str) -> None:
    of = cross_encoder(architecture)
    folder = tiny_encoders.classifier(architecture)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = [[query, text] for text in GROUP.docs]
    with torch.no_grad():
        expected = [model(**words(*pair, truncation=True, max_length=64, return_tensors="pt")).logits for pair in pairs]
    scores = of.compute_score(pairs)
    assert scores == pytest.approx([logit.item() for logit in expected], abs=1e-5)
    assert len(set(scores)) == len(scores)


def test_training_sees_documents_beside_a_query_that_fills_the_model() -> None:
    of = cross_encoder()
    batch = training_batch(of.parts, [dataclasses.replace(GROUP, labels=[1.0, 0, 0, 0])])
    words = of.parts.backbone.tokenizer
    for ids, mask, text in zip(batch.tokens.ids, batch.tokens.mask, GROUP.docs, strict=True):
        assert ids[mask.bool()].tolist() == words(LONG, text, truncation=True, max_length=64)["input_ids"]


def rows_of(kind: str, group: Group) -> list[Row]:
    every = tuple(range(len(group.docs)))
    if kind == "encoder_decoder.v1":
        of = dataclasses.replace(tiny_t5.parts(), collator=EncoderDecoderCollator(100))
        return encode(of, [Ask(group, (n,)) for n in every])
    if kind == "sequence.v1":
        formatter = PointwiseFormatter("Q: {query} D: {document} A:")
        return encode(dataclasses.replace(tiny.parts(), formatter=formatter, collator=SequenceCollator(100)), [
            Ask(group, (n,)) for n in every
        ])  # fmt: skip
    several = Documents("{query}\n{documents}\nbest:", document="{label} {document}", answers="{label}")
    of = tiny_rankers.parts(Choice(), formatter=several)
    return encode(dataclasses.replace(of, collator=SequenceCollator(160)), [Ask(group, every)])


@pytest.mark.parametrize("kind", ["encoder_decoder.v1", "sequence.v1", "setwise"])
def test_neither_query_nor_documents_lose_more_than_their_half(kind: str) -> None:
    group = Group(LONG, [tiny.sentence(40 + n, 120) for n in range(4)])
    for row in rows_of(kind, group):
        query, documents = row.roles.count("query"), row.roles.count("document")
        assert abs(query - documents) <= 1 and query > 20 and row.cut_query > 0
        runs = "".join("d" if role == "document" else " " for role in row.roles).split()
        assert max(map(len, runs)) - min(map(len, runs)) <= 1  # several documents share theirs equally


def test_a_recipe_can_ask_for_the_documents_to_be_cut_first() -> None:
    words = tiny_encoders.tokenizer("wordpiece")
    prompt = Pair().format(Ask(GROUP, (3,)), words)
    (row,) = PairCollator(100, truncation="documents_first").encode([prompt], words)
    assert (row.cut_query, row.roles.count("document")) == (0, 100 - 3 - row.roles.count("query"))
    chosen = load_recipe("llm_yes_logit").get("model.collator")
    assert (chosen["query_max_length"], chosen["truncation"]) == (384, "documents_first")


def test_what_was_cut_is_counted_once_for_each_text_and_named() -> None:
    from rerankkit.warnings import collecting

    of = cross_encoder()
    with collecting() as counted:
        of.rank_groups([GROUP])
    assert counted.counts == {"queries_cut": 1, "documents_cut": 3}
    assert counted.examples["documents_cut"].startswith("document 'b' of query 'q9' (3")
    assert "30 read: max_length = 64)" in counted.examples["documents_cut"]
    with collecting() as counted:
        of.rank_groups([Group("short", GROUP.docs[:2])])
    assert counted.counts == {}
    with collecting(strict=True), pytest.raises(InputError, match=r"document 'd' of query 'q' \(91 tokens, 60 read"):
        of.rank_groups([Group("a", GROUP.docs[3:], qid="q", doc_ids=["d"])])


def test_a_document_of_which_nothing_is_read_is_told_apart() -> None:
    from rerankkit.warnings import collecting

    backbone = hf_classifier(str(tiny_encoders.classifier("bert")))
    collator = PairCollator(64, truncation="documents_first")
    with collecting() as counted:
        Reranker(Parts(Pair(), collator, backbone, Logit(), Pointwise())).rank_groups([GROUP])
    assert counted.counts == {"queries_cut": 1, "documents_unread": 4}
    assert counted.examples["documents_unread"].endswith(" tokens, 0 read: max_length = 64)")


def test_documents_of_which_only_a_beginning_is_read_name_the_limit() -> None:
    from rerankkit.warnings import collecting

    of = Reranker(dataclasses.replace(tiny.parts(), collator=SequenceCollator(200, document_max_length=8)))
    docs = [f"{tiny.sentence(3, 12)} {tiny.sentence(n, 30)}" for n in range(5)]
    with collecting() as counted:
        scores = of.compute_score([["a cat", text] for text in docs])
    assert len(set(scores)) == 1 and counted.counts == {"documents_cut": 5}
    assert counted.examples["documents_cut"].endswith("8 read: document_max_length = 8)")


def test_late_interaction_says_what_its_caps_cut() -> None:
    from rerankkit.warnings import collecting

    words = tiny_bert.tokenizer()
    collator = LateInteractionCollator(12, 24)
    prompts = [Pair().format(Ask(GROUP, (n,)), words) for n in range(4)]
    for row, text in zip(collator.encode(prompts, words), GROUP.docs, strict=True):
        whole = words(text, add_special_tokens=False)["input_ids"]
        query = words(LONG, add_special_tokens=False)["input_ids"]
        assert row.roles.count("query") == 12 - 3
        expected = [(None, len(query), 9, "query_max_length = 12")]
        if len(whole) > 21:
            expected.append((0, len(whole), 21, "document_max_length = 24"))
        assert list(row.cuts) == expected
    with collecting() as counted:
        of = Reranker.from_pretrained(tiny_bert.with_projection(), {"model.collator.document_max_length": 100})
        of.encode([tiny.sentence(1, 400), "short"], kind="document")
    assert counted.counts == {"documents_cut": 1}


def test_training_says_before_its_first_step_what_is_cut(
    tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerankkit import warnings
    from rerankkit.training import trainer

    warnings._said.clear()
    steps: list[list[str]] = []
    compute = trainer.GroupTrainer.compute_loss

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        steps.append([record.message for record in caplog.records if "documents cut" in record.message])
        return compute(self, *given, **named)

    monkeypatch.setattr(trainer.GroupTrainer, "compute_loss", counted)
    path = recipe(tmp_path / "recipe", "classifier", {**run.SETTINGS, "max_steps": 2})
    with caplog.at_level(logging.WARNING, "rerankkit"):
        train(path, tmp_path / "model", {"model.collator.max_length": 8})
    assert any(message.startswith("96 documents cut") for message in steps[0])
