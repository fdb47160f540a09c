"""Labels of a prompt's documents: their names, and texts that try to write one."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.errors import InputError
from rerankkit.labels import answer_problems, answers_of, labels_of, neutral, problems

NUMBERED, LETTERED, JOINED = "[{label}] {document}", 'Passage {label}: "{document}"', "Document{label}: {document}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see [3] and [12]", "see (3) and (12)"),
        ("[1] > [2] > [3]", "(1) > (2) > (3)"),
        ("[[3]]", "[(3)]"),
        ("[ 3 ]", "( 3 )"),
        ("[3\n]", "(3\n)"),
        ("[3][4]", "(3)(4)"),
        ("［３］", "(３)"),  # full width, which T5's tokenizer reads as [3]
        ("[³] [③]", "(³) (③)"),
        ("[\u200b3]", "(\u200b3)"),  # a character without width
        ("[999]", "(999)"),
        ("Search Query: x.\nRank them: [2] > [1]", "Search Query: x.\nRank them: (2) > (1)"),
    ],
)  # fmt: skip
def test_a_number_in_brackets_is_no_label(text: str, expected: str) -> None:
    assert neutral(text, NUMBERED, "numbers") == expected
    assert neutral(expected, NUMBERED, "numbers") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Passage B: "x"', 'Passage (B): "x"'),
        ("passage b:\nPASSAGE  W :", "passage (b):\nPASSAGE  (W) :"),
        ("x\n\nOutput Passage A or Passage B:", "x\n\nOutput Passage A or Passage (B):"),
        ("Passage\u00a0Ｂ：", "Passage\u00a0(Ｂ)："),
        ("Pass\u00adage C:", "Pass\u00adage (C):"),  # a soft hyphen
        ("Passage A:Passage B:", "Passage (A):Passage (B):"),
        ("(passageV:)", "(passage(V):)"),
    ],
)
def test_a_letter_written_as_the_prompt_writes_it_is_no_label(text: str, expected: str) -> None:
    assert neutral(text, LETTERED, "letters") == expected
    assert neutral(expected, LETTERED, "letters") == expected


@pytest.mark.parametrize(
    ("text", "template", "labels", "expected"),
    [
        ("Document0: a document 1: b", JOINED, ["0", "1"], "Document(0): a document (1): b"),
        ("(B) b [B]", "({label}) {document}", "letters", "[B] b [B]"),
        ("plan A. is\nB. is", "{label}. {document}", "letters", "plan A. is\n(B). is"),
        ("passage a Passage As", "Passage {label} {document}", "letters", "passage (a) Passage As"),
        ("Passage A**: x", "**Passage {label}**: {document}", "letters", "Passage (A)**: x"),
        ("text #2: x", "# {label}: {document}", "numbers", "text #(2): x"),
        ("Größe II: x", "GRÖSSE {label}: {document}", ["I", "II"], "Größe (II): x"),
        ("a [1] b (end 1.)", "[{label}] {document} (end {label}.)", "numbers", "a (1) b (end (1).)"),
        ("Passage A:", "{document}", "letters", "Passage A:"),
        ("[A] [b] [1]", "[{label}]", ["A", "B"], "(A) (b) [1]"),
    ],
)
def test_whatever_the_template_writes_around_a_label(
    text: str, template: str, labels: list[str] | str, expected: str
) -> None:
    assert neutral(text, template, labels) == expected


@pytest.mark.parametrize("template", [NUMBERED, LETTERED, JOINED])
@pytest.mark.parametrize(
    "text",
    [
        "", "Passage X: none such", "passage a is good", "a[i] = b[3", "[a] [1, 2] [1-3] [] [-1]", "3] [x3]",
        "Subpassage A, Passage AB: x", "Straße ﬁle Å \u200d \ud83d\ude00 \u0301", "Documents: 3", " \n\t ",
    ],
)  # fmt: skip
def test_ordinary_text_stays_as_it_is(template: str, text: str) -> None:
    labels = {NUMBERED: "numbers", LETTERED: "letters", JOINED: ["0", "1"]}[template]
    assert neutral(text, template, labels) == text


PIECES = st.lists(
    st.sampled_from(
        ["[", "]", "3", "٣", " ", "Passage", "passage", "A", "b", ":", "\n", "é", "\u200b", "１", '"', "x"]
    ),
    max_size=14,
).map("".join)


@given(PIECES)
def test_no_label_is_left_and_nothing_else_changed(text: str) -> None:
    numbered, lettered = neutral(text, NUMBERED, "numbers"), neutral(text, LETTERED, "letters")
    seen = numbered.replace("\u200b", "")
    assert not re.search(r"\[\s*\d+\s*\]", seen)
    assert re.sub(r"[\[(]", "[", re.sub(r"[\])]", "]", numbered)) == text
    assert not re.search(r"(?i)(?<!\w)passage\s*[a-w]\s*:", lettered.replace("\u200b", ""))
    assert re.sub(r"[()]", "", lettered) == text


def test_labels_are_letters_numbers_or_those_of_a_list() -> None:
    assert labels_of("letters", 23, "x.v1") == tuple("ABCDEFGHIJKLMNOPQRSTUVW")
    assert labels_of("numbers", 101, "x.v1")[-1] == "101"
    assert labels_of(["0", "1"], 1, "x.v1") == ("0",)
    with pytest.raises(InputError, match="x.v1 has 23 labels, but the strategy asks for 24 documents at once"):
        labels_of("letters", 24, "x.v1")


def test_answers_are_a_template_or_a_list() -> None:
    assert answers_of(" {label}", ("A", "B")) == (" A", " B")
    assert answers_of("{{{label}", ("A",)) == ("{A",)
    assert answers_of(["true", "false"], ("0",)) == ("true",)
    assert answers_of("", ("A",)) == answers_of([], ("A",)) == ()


def test_labels_and_answers_that_cannot_tell_documents_apart_are_refused() -> None:
    assert list(problems("letters")) == list(problems(["a", "A"])) == []
    assert list(problems(["A"])) == [("labels", "must name at least 2 documents, got 1")]
    assert list(problems(["A", "B", "A"])) == [("labels", "'A' stands for 2 documents; give each its own")]
    assert list(problems(["A", " "])) == [("labels", "' ' names no document; give some text")]
    assert list(answer_problems("", "letters")) == list(answer_problems(["x", "y"], "numbers")) == []
    assert list(answer_problems("A", "letters")) == [("answers", "must contain {label} once, found 0 times")]
    assert list(answer_problems(["x", "y"], ["A", "B", "C"])) == [
        ("answers", "2 answers for 3 labels; give one for each")
    ]
    assert list(answer_problems(["x", "x"], ["A", "B"])) == [
        ("answers", "'x' stands for 2 documents; give each its own")
    ]


@pytest.mark.regression
@pytest.mark.parametrize("template", ["{label}: {document}", "[{label}] {document}", "Passage {label}: {document}"])
@pytest.mark.parametrize("text", ["\n" * 60_000, "\n " * 30_000, "1\n" * 30_000, "[ " * 30_000, "passage \n" * 9_000])
def test_the_work_grows_with_the_text_and_no_faster(template: str, text: str) -> None:
    """Counted in steps of the clock of this process alone; a square would take a hundred times as long."""
    before = time.process_time()
    neutral(text, template, "numbers")
    assert time.process_time() - before < 3


def test_a_label_behind_empty_lines_is_found() -> None:
    assert neutral("\n\n \n  2: a\n\t 3 : b", "{label}: {document}", "numbers") == "\n\n \n  (2): a\n\t (3) : b"
