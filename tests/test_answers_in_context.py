"""Where a model answers: the token that goes on from a prompt, what a classifier reads to its end, what scores mean."""

from __future__ import annotations

import dataclasses
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_encoders
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from rerankkit import Group, Reranker, engine
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.logit import Logit
from rerankkit.heads.query_likelihood import QueryLikelihood
from rerankkit.heads.yes_no import yes_no
from rerankkit.protocols import Ask
from rerankkit.strategies.pointwise import Pointwise
from rerankkit.strategies.sliding_window import SlidingWindow

pytestmark = pytest.mark.regression
GROUP = Group("a cat", ["on a mat", "in the rain", "a"])


@cache
def llama2() -> Any:
    """A BPE that writes spaces as `▁`, opens every text with one, and falls back to bytes: Llama 2's."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for piece in "▁YesNocatimrnhwe:":
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("Y", "e"), ("Ye", "s"), ("N", "o"), ("▁", "Yes"), ("▁", "No"), ("c", "a"), ("ca", "t"), ("▁", "cat")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    words = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    words.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def named(template: str, positive: str, negative: str) -> tuple[list[str], Parts]:
    """The entries that the two answers are read at, and the parts that read them."""
    backbone = dataclasses.replace(tiny.parts(), head=yes_no(positive, negative)).backbone
    words, backbone.tokenizer = backbone.tokenizer, llama2()
    try:
        parts = Parts(Template(template), SequenceCollator(256), backbone, yes_no(positive, negative), Pointwise())
        parts.head.bind(backbone)
        batch = engine.collate(parts, engine.encode(parts, [Ask(GROUP, (n,)) for n in range(3)]))
        assert batch.choices is not None and batch.choices.unique(dim=0).shape == (1, 2)
        return llama2().convert_ids_to_tokens(batch.choices[0].tolist()), parts
    finally:
        backbone.tokenizer = words


@pytest.mark.parametrize(
    ("end", "positive", "negative", "entries"),
    [
        ("\n", "Yes", "No", ["Yes", "No"]),
        ("cat:\n", "Yes", "No", ["Yes", "No"]),
        ("\n", " Yes", " No", ["▁Yes", "▁No"]),
        (" cat:", " Yes", " No", ["▁Yes", "▁No"]),
        (" cat:", "Yes", "No", ["Yes", "No"]),
    ],
)
def test_an_answer_is_the_entry_that_goes_on_from_the_prompt(
    end: str, positive: str, negative: str, entries: list[str]
) -> None:
    found, _ = named(f"{{query}} {{document}}{end}", positive, negative)
    assert found == entries
    last = [llama2()(f"a{end}{answer}")["input_ids"][-1] for answer in (positive, negative)]
    assert llama2().convert_ids_to_tokens(last) == entries


def test_scores_are_read_at_these_entries() -> None:
    of = dataclasses.replace(
        tiny.parts("llama", False), formatter=Template("{query} {document}\n\n"), head=yes_no("Yes", "No")
    )
    of.head.bind(of.backbone)
    scores = Reranker(of).compute_score([["a cat", text] for text in GROUP.docs])
    words = of.backbone.tokenizer
    for score, text in zip(scores, GROUP.docs, strict=True):
        ids = words(f"a cat {text}\n\n", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = of.backbone.module(input_ids=ids).logits[0, -1]
        yes, no = (words(f"\n\n{answer}")["input_ids"][-1] for answer in ("Yes", "No"))
        assert score == pytest.approx((logits[yes] - logits[no]).item(), abs=1e-4)


def test_answers_that_the_model_never_writes_are_told_of() -> None:
    from rerankkit.warnings import collecting

    of = tiny.parts("llama", False)
    with collecting() as counted:
        Reranker(of).compute_score([["a cat", "a mat"]])
    assert "answers_improbable" not in counted.counts
    thinks = Reranker(dataclasses.replace(of, backbone=Thinking(of.backbone), head=yes_no()))
    with collecting() as counted:
        thinks.compute_score([["a cat", "a mat"]])
    assert counted.counts == {"answers_improbable": 1}
    assert "' yes' and ' no' have together a probability of " in counted.examples["answers_improbable"]
    assert "'<think>' has 1" in counted.examples["answers_improbable"]


class Thinking:
    """A backbone that would write `<think>` first."""

    shares_prefix = False

    def __init__(self, backbone: Any) -> None:
        self.tokenizer, self.module, self._of = backbone.tokenizer, backbone.module, backbone

    def read_shared(self, shared: Any, before: Any = ()) -> Any:
        return self._of.read_shared(shared, before)

    def hidden(self, batch: Any, states: Any = None) -> Any:
        return self._of.hidden(batch, states)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def vocabulary(self, token_ids: Any = None) -> Any:
        found = self._of.vocabulary(token_ids)
        bias = torch.zeros(len(self.tokenizer))
        bias[self.tokenizer.convert_tokens_to_ids("<think>")] = 40
        return dataclasses.replace(found, bias=bias if token_ids is None else bias[list(token_ids)])


@cache
def closing(architecture: str, single: str, pair: str) -> Path:
    """A decoder's classifier whose tokenizer frames texts so."""
    source = tiny_encoders.classifier(architecture)
    folder = Path(shutil.copytree(source, source.with_name(f"{architecture}-{abs(hash((single, pair)))}")))
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 3), ("<|im_end|>", words.eos_token_id)]
    )
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("single", ["$A <|im_end|>", "<s> $A <|im_end|>"])
def test_a_classifier_reads_what_its_tokenizer_closes_texts_with(single: str) -> None:
    folder = closing("llama", single, f"{single} $B")
    backbone = hf_classifier(str(folder))
    of = Reranker(Parts(Template(tiny.TEMPLATE), SequenceCollator(64), backbone, Logit(), Pointwise()))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    for text in GROUP.docs:
        inputs = words(tiny.TEMPLATE.format(query="a cat", document=text), return_tensors="pt")
        assert inputs["input_ids"][0, -1] == words.eos_token_id
        with torch.no_grad():
            expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.item()
        assert of.compute_score([["a cat", text]]) == pytest.approx([expected], abs=1e-5)
    rows = engine.encode(of.parts, [Ask(Group("a", [tiny.sentence(1, 90)]), (0,))])
    assert len(rows[0].ids) == 64 and rows[0].ids[-1] == words.eos_token_id


@pytest.mark.parametrize(
    ("single", "pair"),
    [
        ("<s> $A", "<s> $A <s> $B"),
        ("$A <|im_end|>", "$A <|im_end|> $B <|im_end|>"),
        ("<s> $A <|im_end|>", "<s> $A <|im_end|> <s> $B <|im_end|>"),
    ],
)
def test_a_decoder_is_given_no_pair_of_two_frames_unless_it_was_trained_so(single: str, pair: str) -> None:
    folder = closing("qwen3", single, pair)
    parts = Parts(Pair(), PairCollator(64), hf_classifier(str(folder)), Logit(), Pointwise())
    with pytest.raises(InputError, match="frames each of two texts by itself.*use pointwise.v1 and sequence.v1"):
        Reranker(parts).compute_score([["a cat", "a mat"]])
    words = transformers.AutoTokenizer.from_pretrained(folder)
    trained = Reranker(dataclasses.replace(parts, collator=PairCollator(64, frame_each=True)))
    (row,) = engine.encode(trained.parts, [Ask(GROUP, (0,))])
    assert row.ids == words("a cat", "on a mat")["input_ids"]
    trained.compute_score([["a cat", "a mat"]])


def test_a_probability_is_normalized_already() -> None:
    of = tiny.parts("llama", False)
    pairs = [["a cat", text] for text in GROUP.docs]
    shown = {}
    for kind in ("probability", "difference"):
        head = yes_no(score=kind)  # type: ignore[arg-type]
        shown[kind] = Reranker(dataclasses.replace(of, head=head)).compute_score(pairs, normalize=True)
    assert shown["probability"] == pytest.approx(shown["difference"], abs=1e-5)


def test_a_likelihood_cannot_be_normalized() -> None:
    of = Reranker(dataclasses.replace(tiny.parts("llama", False), head=QueryLikelihood()))
    with pytest.raises(InputError, match="log-probability of the query's tokens, which is no logit"):
        of.compute_score([["a cat", "a mat"]], normalize=True)


def test_windows_that_share_no_document_are_told_of() -> None:
    from rerankkit.warnings import collecting

    for window, step, count, told in ((3, 3, 7, 1), (3, 3, 3, 0), (3, 2, 7, 0)):
        with collecting() as counted:
            asking = SlidingWindow(window, step).rank(Group("a", ["b"] * count, qid="q1"))
            next(asking)
        assert counted.counts.get("windows_apart", 0) == told
