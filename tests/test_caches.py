"""What is kept for later calls goes with what it is of, and stays within its bound."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import pytest
import tiny
import tiny_bert

from rerankkit import Group, Reranker, labels

SETWISE = {
    "model.formatter.@formatters": "documents.v1",
    "model.head.@heads": "generated_order.v1",
    "model.strategy.@strategies": "setwise_heapsort.v1",
}


def loaded(kind: str, at: Path) -> Reranker:
    if kind in ("llm", "setwise"):
        return Reranker.from_recipe(tiny.recipe(at / "r.cfg"), SETWISE if kind == "setwise" else None)
    (at / "r.cfg").write_text(tiny_bert.model_sections(kind))
    reranker = Reranker.from_recipe(at / "r.cfg")
    reranker.untrained = False
    return reranker


@pytest.mark.regression
@pytest.mark.parametrize("kind", ["llm", "setwise", "classifier", "linear", "colbert"])
def test_a_reranker_that_was_dropped_is_gone_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    reranker = loaded(kind, tmp_path)
    reranker.rank("open a file", ["the open function", "a cat sat", "a file on the disk"])
    gone = [weakref.ref(reranker.parts.backbone.tokenizer), weakref.ref(reranker.parts.backbone.module)]
    del reranker
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@pytest.mark.regression
def test_a_chat_template_that_was_changed_is_the_one_that_is_written() -> None:
    from rerankkit.chat import frame

    words = tiny.tokenizer(chat="{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}?")
    before = frame(words, ("user",), "", "x.v1")
    words.chat_template = "{% for m in messages %}Q: {{ m['content'] }}{% endfor %}!"
    assert frame(words, ("user",), "", "x.v1") == ("Q: ", "!") != before


@pytest.mark.regression
def test_large_documents_do_not_stay_in_memory() -> None:
    import tracemalloc

    tracemalloc.start()
    for number in range(60):
        labels.neutral(f"{number} is what it says " * 40_000, "[{label}] {document}", "numbers")
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 24 << 20  # of 60 texts of a megabyte


def test_a_cache_of_texts_keeps_the_latest_used_within_its_bytes() -> None:
    from rerankkit.caches import TextCache

    cache, made = TextCache(20_000), list[str]()

    def get(name: str, length: int = 1000) -> str:
        def make() -> str:
            made.append(name)
            return name * length

        return cache.get((name,), make)

    for name in "abcdefgh":
        assert get(name) == name * 1000
    assert made == list("abcdefgh")
    made.clear()
    for name in "abcdefghijklmnopqrstuvwxyz":
        get(name)
        get("a")
    assert made == list("ijklmnopqrstuvwxyz") and cache.used <= cache.size
    get("b")
    assert made[-1] == "b"
    assert get("long", 5000) == "long" * 5000 and sys.getsizeof("long" * 5000) > cache.size // 8
    get("long", 5000)
    assert made[-2:] == ["long", "long"]


def test_groups_are_ranked_alike_with_and_without_what_is_kept(tmp_path: Path) -> None:
    reranker = loaded("setwise", tmp_path)
    groups = [Group("open a file", ["[1] the open function", "a cat sat [2]", "a file"]) for _ in range(2)]
    first, second = reranker.rank_groups(groups)
    assert first == second
