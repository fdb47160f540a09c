"""BM25 against its formula, and its corner cases."""

import math
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.bm25 import BM25
from rerankkit.errors import InputError

STOP = {"the", "and", "of"}
words = st.sampled_from(["cat", "dog", "mouse", "x", "the", "and", "Cat", "naïve", "42"])
texts = st.lists(words, max_size=8).map(" ".join)


def terms(text: str) -> list[str]:
    return [t for t in re.findall(r"\b\w\w+\b", text.lower()) if t not in STOP]


def naive(documents: list[str], query: str, k1: float = 0.9, b: float = 0.4) -> list[float]:
    """Lucene's variant: idf = ln(1 + (N - df + 0.5) / (df + 0.5)), tf / (tf + k1 (1 - b + b length / mean length))."""
    counts = [Counter(terms(d)) for d in documents]
    mean = sum(sum(c.values()) for c in counts) / len(counts)
    scores = [0.0] * len(documents)
    for term in terms(query):
        df = sum(term in c for c in counts)
        for i, c in enumerate(counts):
            if c[term]:
                idf = math.log(1 + (len(counts) - df + 0.5) / (df + 0.5))
                scores[i] += idf * c[term] / (c[term] + k1 * (1 - b + b * sum(c.values()) / mean))
    return scores


@given(st.lists(texts, min_size=1, max_size=12), texts, st.integers(1, 15))
def test_equal_to_the_formula(documents: list[str], query: str, k: int) -> None:
    (hits,) = BM25(documents).search([query], k)
    expected = naive(documents, query)
    assert len(hits) == min(k, sum(score > 0 for score in expected))
    assert [score for _, score in hits] == pytest.approx(sorted(expected, reverse=True)[: len(hits)], abs=1e-5)
    for position, score in hits:
        assert score == pytest.approx(expected[position], abs=1e-5)


def test_equal_scores_keep_the_order_of_documents() -> None:
    bm25 = BM25(["cat dog", "mouse", "cat dog", "dog cat", "cat dog"])
    assert [position for position, _ in bm25.search(["cat dog"], 3)[0]] == [0, 2, 3]
    assert [position for position, _ in bm25.search(["cat dog"], 100)[0]] == [0, 2, 3, 4]


def test_without_a_known_term_nothing_is_found() -> None:
    bm25 = BM25(["cat dog", "", "the of"])
    assert bm25.search(["zebra", "", "the", "a b"], 5) == [[], [], [], []]
    assert BM25([]).search(["cat"], 5) == [[]]
    assert BM25(["", "the"]).search(["cat"], 5) == [[]]
    assert bm25.search([], 5) == []


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="b from 0 to 1"):
        BM25(["cat"], b=1.5)


def test_the_same_to_the_last_bit_in_every_process() -> None:
    code = (
        "from rerankkit.bm25 import BM25; import random; random.seed(1);"
        "w = [f'w{i}' for i in range(60)]; d = [' '.join(random.choices(w, k=30)) for _ in range(50)];"
        "print(BM25(d).search([' '.join(random.choices(w, k=9)) for _ in range(20)], 10))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1000


UNSPACED = {
    "Chinese": (["我喜欢在北京吃烤鸭", "上海的夜景很美丽", "北京，故宫的历史"], "北京烤鸭", [0, 2]),
    "one character": (["猫和狗", "鸟"], "猫", [0]),
    "Japanese": (["東京タワーは高いです", "京都の寺を訪ねる"], "東京の塔", [0, 1]),
    "half-width kana": (["ガラスの靴", "木の靴"], "ｶﾞﾗｽ", [0]),
    "Thai": (["แมวนอนบนเสื่อ", "ฝนตกหนัก"], "แมว", [0]),
    "Khmer": (["ភាសាខ្មែរ", "ទឹក"], "ខ្មែរ", [0]),
    "mixed": (["Python语言教程", "Java语言", "蟒蛇"], "python", [0]),
    "Hindi": (["मैं हिन्दी पढ़ता हूँ", "वह गाता है"], "हिन्दी", [0]),
    "Arabic with vowel signs": (["كَتَبَ الوَلَدُ", "ذهب"], "كتب", [0]),
    "accents apart": (["un cafe\u0301 noir", "th\u00e9 vert"], "caf\u00e9", [0]),
}


@pytest.mark.regression
@pytest.mark.parametrize("script", UNSPACED)
def test_scripts_without_spaces_are_searched(script: str) -> None:
    documents, query, expected = UNSPACED[script]
    assert [position for position, _ in BM25(documents).search([query], 9)[0]] == expected


@given(st.text(st.characters(max_codepoint=0x24F), max_size=40) | texts)
def test_words_of_latin_texts_are_those_of_bm25s(text: str) -> None:
    from rerankkit.words import words

    assert words(text) == re.findall(r"(?u)\b\w\w+\b", text.lower())


def test_an_unspaced_run_is_read_by_characters_and_pairs() -> None:
    from rerankkit.words import words

    assert words("是3月, Python语") == ["是", "月", "python", "语"]
    assert words("东京，京都") == ["东", "东京", "京", "京", "京都", "都"]
