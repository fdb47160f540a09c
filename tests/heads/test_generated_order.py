"""Written orders: what is read in them, what is counted, what is taught, and how likely it is."""

from __future__ import annotations

import time

import pytest
import tiny
import tiny_rankers
import torch

from rerankkit.batches import score_matrix, training_batch
from rerankkit.errors import InputError
from rerankkit.heads.generated_order import GeneratedOrder
from rerankkit.protocols import Group

NUMBERS = ["[1]", "[2]", "[3]", "[4]"]
BARE = ["1", "2", "3", "4"]
LETTERS = ["A", "B", "C", "D"]
ANSWER = "<answer>(.*?)</answer>"


def order(scores: list[float]) -> str:
    """The documents a, b, c and d by their scores, equal ones as given."""
    return "".join("abcd"[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i]))


@pytest.mark.parametrize("labels", [NUMBERS, BARE])
@pytest.mark.parametrize(
    ("answer", "wanted", "faults"),
    [
        ("[2] > [1] > [4] > [3]", "badc", {}),
        ("4, 3, 2, 1", "dcba", {}),
        ("[2] > [2] > [9] > 4 docs", "bdac", {"repeated": 1, "out_of_range": 1, "missing": 2}),
        ("[3]", "cabd", {"missing": 3}),
        ("[03] > [0] > [3]", "cabd", {"out_of_range": 1, "repeated": 1, "missing": 3}),
        ("I cannot rank these passages.", "abcd", {"refused": 1}),
        ("", "abcd", {"refused": 1}),
        ("[5] > [6]", "abcd", {"out_of_range": 2, "refused": 1}),
        ("1" * 9000, "abcd", {"out_of_range": 1, "refused": 1}),
        ("\u0662 > [2]\n[1]", "bacd", {"missing": 2}),  # other scripts' digits are no numbers of the prompt's
    ],
)
def test_numbers_are_read_as_rankgpt_reads_them(
    labels: list[str], answer: str, wanted: str, faults: dict[str, int]
) -> None:
    found = GeneratedOrder().read(answer, labels)
    assert order(found.scores) == wanted and found.faults == faults
    assert sorted(found.scores) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("answer", "wanted", "faults"),
    [
        ("[B] > [A] > [D] > [C]", "badc", {}),
        ("b > a > d > c", "badc", {}),
        ("Passage D > Passage B", "dbac", {"missing": 2}),
        ("C is what I'd say; it's best", "cabd", {"missing": 3}),
        ("Z > A, A", "abcd", {"out_of_range": 1, "repeated": 1, "missing": 3}),
        ("Sorry, none.", "abcd", {"refused": 1}),
    ],
)
def test_letters_are_read_where_they_stand_alone(answer: str, wanted: str, faults: dict[str, int]) -> None:
    found = GeneratedOrder().read(answer, LETTERS)
    assert order(found.scores) == wanted and found.faults == faults


MANY = [chr(ord("A") + number) for number in range(12)]
TWENTY = [str(number + 1) for number in range(20)]


@pytest.mark.regression
@pytest.mark.parametrize(
    ("answer", "labels", "wanted"),
    [
        ("<think>[7] of 20 \u2026</think> [5] > [4]", TWENTY, ["5", "4"]),
        ("<think>[3]</think> no, <think>[2]</think>[9] > [8]", TWENTY, ["9", "8"]),
        ("so [7] it is</think>\n[5]", TWENTY, ["5"]),
        ("[6] > [2] <think>or [3]", TWENTY, ["6", "2"]),
        ("<think>[7] or [8]", TWENTY, []),
        ("1. [2]\n2. [1]\n3. [3]", BARE[:3], ["2", "1", "3"]),
        ("1. [2]\n2. [1]\n3. [3]", NUMBERS[:3], ["2", "1", "3"]),
        ("1) **[12]**: on cats, 3 facts\n2) **[4]**", TWENTY, ["12", "4"]),
        ("1. 2\n2. 1\n3. 3", BARE[:3], ["2", "1", "3"]),
        ("1. Passage 2\n2. Passage 1", BARE, ["2", "1"]),
        ("Of the 20 passages: 5 > 4 > 3", TWENTY, ["5", "4", "3"]),
        ("[2, 1, 3]", BARE, ["2", "1", "3"]),
        ("I would rank B > A", MANY, ["B", "A"]),
        ("I would put C first, then A and B.", MANY, ["C", "A", "B"]),
        ("A good order is [B] > [I] > [A]", MANY, ["B", "I", "A"]),
        ("1. Passage B\n2. Passage A", MANY, ["B", "A"]),
        ("I", MANY, ["I"]),
        ("<reasoning>[1] > [2]</reasoning>[3] > [1]", TWENTY, ["3", "1"]),
        ("<THINK>[1]</THINK> [3]", TWENTY, ["3"]),
        ("[THINK][1] > [2][/THINK][3] > [1]", TWENTY, ["3", "1"]),
        ("\u25c1think\u25b7[1]\u25c1/think\u25b7[3]", TWENTY, ["3"]),
        ("<|channel|>analysis<|message|>[1] > [2]<|channel|>final<|message|>[3] > [1]", TWENTY, ["3", "1"]),
        ("<|channel|>analysis<|message|>[1] > [2]", TWENTY, []),
        ("\uff3b\uff13\uff3d \uff1e \uff3b\uff11\uff3d", TWENTY, ["3", "1"]),
        ("\uff13\u3001\uff11", TWENTY, ["3", "1"]),
        ("in the year 5, \u30103\u3011 and \u30101\u3011", TWENTY, ["3", "1"]),
        ("\u2462\u2460", TWENTY, ["3", "1"]),
        ("\u24b7 > \uff21", MANY, ["B", "A"]),
        ("'C' > 'A'", MANY, ["C", "A"]),
        ("'C'", MANY, ["C"]),
        ("[1] is on cats, [2] on dogs, [3] on both.\n\nRanking: [3] > [2] > [1]", TWENTY, ["3", "2", "1"]),
        ("[3] is best. Of the rest, [1] > [2].", TWENTY, ["3", "1", "2"]),
        ("[3] > [1]\n[4] > [2]", TWENTY, ["3", "1", "4", "2"]),
        ("3 (0.95) > 1 (0.80)", TWENTY, ["3", "1"]),
        ("I ranked the 4 most relevant passages: 3, 1, 2", TWENTY, ["3", "1", "2"]),
        ("Sorry, none of the 4 passages is relevant.", TWENTY, []),
        ("| Rank | Passage |\n|---|---|\n| 1 | 3 |\n| 2 | 1 |", TWENTY, ["3", "1"]),
        ("Rank 1: 3\nRank 2: 1", TWENTY, ["3", "1"]),
        ("1. Doc 3\n2. Doc 1", TWENTY, ["3", "1"]),
        ("5 \u2265 3 = 2 \u21d2 1, and not 7 or 8", TWENTY, ["5", "3", "2", "1"]),
    ],
)
def test_only_what_is_written_as_an_answer_counts(answer: str, labels: list[str], wanted: list[str]) -> None:
    scores = GeneratedOrder().read(answer, labels).scores
    bare = [label.strip("[]") for label in labels]
    expected = wanted + [label for label in bare if label not in wanted]
    assert sorted(bare, key=lambda label: -scores[bare.index(label)]) == expected


@pytest.mark.regression
def test_a_pattern_is_looked_for_behind_the_thinking() -> None:
    head = GeneratedOrder(pattern=ANSWER)
    answer = "<think>as in <answer>[1]</answer></think><answer>[3] > [2]</answer>"
    assert order(head.read(answer, NUMBERS).scores) == "cbad"
    whole = GeneratedOrder(pattern=r"<think>.*?</think>\s*<answer>(.*?)</answer>")
    assert order(whole.read("<think>[1]</think> <answer>[4] > [2]</answer>", NUMBERS).scores) == "dbac"


@pytest.mark.parametrize(
    ("answer", "labels", "wanted", "faults"),
    [
        ("[3]", NUMBERS, [0, 0, 1, 0], {}),
        ("3 > 1", NUMBERS, [0, 0, 1, 0], {}),
        ("[7]", NUMBERS, [0, 0, 0, 0], {"out_of_range": 1, "refused": 1}),
        ("[7] or [2]", NUMBERS, [0, 1, 0, 0], {"out_of_range": 1}),
        ("[2], for [2] is best", NUMBERS, [0, 1, 0, 0], {}),
        ("none", NUMBERS, [0, 0, 0, 0], {"refused": 1}),
        ("B", LETTERS, [0, 1, 0, 0], {}),
        ("Passage B", LETTERS, [0, 1, 0, 0], {}),
        ("As a judge I would take passage C.", LETTERS, [0, 0, 1, 0], {}),
        ("document: D", LETTERS, [0, 0, 0, 1], {}),
        ("The passage a user needs is B", LETTERS, [0, 1, 0, 0], {}),
    ],
)
def test_one_answer_is_the_first_that_is_named(
    answer: str, labels: list[str], wanted: list[float], faults: dict[str, int]
) -> None:
    found = GeneratedOrder(one=True).read(answer, labels)
    assert found.scores == wanted and found.faults == faults


def test_a_pattern_holds_the_answer() -> None:
    head = GeneratedOrder(pattern=ANSWER, one=True)
    thought = "<think>[1] or [2]?\nrather 2</think> <answer>\n[2]\n</answer>"
    assert head.read(thought, NUMBERS).scores == [0, 1, 0, 0]
    lost = head.read("<think>[1] or [2]?</think> [2]", NUMBERS)
    assert lost.scores == [0, 0, 0, 0] and lost.faults == {"refused": 1}


@pytest.mark.regression
@pytest.mark.parametrize("text", ["[1]", "1 > ", "1\n", "[1, ", "| 1 | 2 |\n", "A ", "Passage 1", "</think>", "[ "])
@pytest.mark.parametrize("labels", [NUMBERS, LETTERS])
def test_a_long_answer_is_read_in_time_that_grows_with_its_length(text: str, labels: list[str]) -> None:
    start = time.process_time()
    GeneratedOrder().read(text * (100_000 // len(text)), labels)
    assert time.process_time() - start < 5  # a minute where it grows with the square


def test_labels_that_cannot_be_read_are_refused() -> None:
    for labels in ([], ["first", "second"], ["A", "1"]):
        with pytest.raises(InputError, match="called by numbers or by one letter each"):
            GeneratedOrder().read("[1]", labels)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("max_new_tokens", 0, "must be at least 1"),
        ("pattern", "<answer>.*</answer>", "has no group"),
        ("pattern", "(", "is no regular expression"),
        ("taught", "[label]", "must contain {label} once, found 0 times"),
    ],
)
def test_what_makes_no_sense_is_refused(argument: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as refused:
        GeneratedOrder(**{argument: value})  # type: ignore[arg-type]
    assert str(refused.value).startswith(f"generated_order.v1, {argument}: ") and message in str(refused.value)


def test_the_order_by_labels_is_taught() -> None:
    pieces = GeneratedOrder().target(BARE, [0.0, 2.0, 0.0, 3.0], "<|im_end|>")
    assert "".join(piece.text for piece in pieces) == "[4] > [2] > [1] > [3]<|im_end|>"
    assert [piece.scored for piece in pieces] == [3, 1, 0, 2, 2]
    assert {piece.role for piece in pieces} == {"fixed"}
    one = GeneratedOrder(one=True, pattern=ANSWER, taught="<answer>[{label}]</answer>")
    pieces = one.target(BARE, [0.0, 2.0, 0.0, 2.0], "</s>")
    assert [(piece.text, piece.scored) for piece in pieces] == [("<answer>[2]</answer>", 1), ("</s>", 1)]
    letters = GeneratedOrder(one=True, taught=" {label}").target(LETTERS, [0, 0, 1, 0], ".")
    assert [piece.text for piece in letters] == [" C", "."]


def test_what_is_taught_can_be_read() -> None:
    with pytest.raises(InputError, match=r"would learn to write '\[2\]', and that is not read"):
        GeneratedOrder(one=True, pattern=ANSWER).target(BARE, [0.0, 1.0, 0.0, 0.0], "")
    with pytest.raises(InputError, match=r"'1\.2'"):
        GeneratedOrder(one=True, taught="1.{label}").target(BARE, [0.0, 1.0, 0.0, 0.0], "")


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("lora", ["", "output"])
@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_the_likelihood_of_each_name_is_read_off_all_logits(architecture: str, lora: str, one: bool) -> None:
    of = tiny_rankers.parts(GeneratedOrder(one=one), architecture, tiny_rankers.Listed("12345678"), lora=lora)
    groups = [tiny.group(1, 3, 12), tiny.group(2, 6, 12)]
    for group in groups:
        group.labels = [float(i % 3) for i in range(len(group.docs))]
    batch = training_batch(of, groups)
    assert batch.place is not None and batch.scored is not None and batch.place.shape == (3, 4)
    with torch.no_grad():
        matrix = score_matrix(of.head.score(of.backbone.hidden(batch), batch), batch)
        wanted = torch.zeros(2, 6)
        for docs, group, ids, marks in zip(
            [(0, 1, 2), (0, 1, 2, 3), (4, 5)], [0, 1, 1], batch.tokens.ids, batch.scored, strict=True
        ):
            length = int((ids != 0).sum())
            text = of.backbone.tokenizer.decode(ids[:length])
            ideal = sorted(docs, key=lambda i: -(groups[group].labels or [])[i])
            names = [f"[{docs.index(i) + 1}]" for i in ideal]
            assert text.endswith("Answer:" + (names[0] if one else " > ".join(names)) + "<|im_end|>")
            every = of.backbone.module(input_ids=ids[None, :length]).logits[0].log_softmax(-1)
            for place in range(1, length):
                if marks[place] >= 0:
                    wanted[group, docs[int(marks[place])]] += every[place - 1, ids[place]]
    assert torch.allclose(matrix, wanted, atol=1e-4)
    assert int((matrix != 0).sum()) == (3 if one else 9)


def test_twenty_documents_are_named_within_the_default() -> None:
    words = tiny.tokenizer()  # to which each of these characters is a token
    labels = [str(i + 1) for i in range(20)]
    pieces = GeneratedOrder().target(labels, [float(i) for i in range(20)], "<|im_end|>")
    written = "".join(piece.text for piece in pieces)
    assert len(words(written)["input_ids"]) == 129 <= GeneratedOrder().max_new_tokens


def test_a_model_that_cannot_end_is_not_taught() -> None:
    of = tiny_rankers.parts(GeneratedOrder(), formatter=tiny_rankers.Listed("1234"))
    of.backbone.tokenizer.eos_token = None
    try:
        with pytest.raises(InputError, match="no token that ends a text"):
            training_batch(of, [Group("query", ["a", "b"], [1.0, 0.0])])
    finally:
        of.backbone.tokenizer.eos_token = "<|im_end|>"
