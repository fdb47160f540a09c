"""What the Python API is given: ranked as it is meant, or refused in a sentence before the work."""

from __future__ import annotations

import enum
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import tiny
import torch

from rerankkit import Group, Passages, Reranker, engine
from rerankkit.errors import InputError

QUERY, DOCS = "open a file", ["on the mat", "the open function returns a file", "a cat"]
TABLE = pandas.DataFrame({"text": DOCS, "query": [QUERY] * 3}, index=[2, 0, 7])


@cache
def reranker() -> Reranker:
    return Reranker(tiny.parts())


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is asked."""
    monkeypatch.setattr(engine, "run", lambda *_, **__: pytest.fail("the model was asked"))
    monkeypatch.setattr(engine.Scoring, "score", lambda *_, **__: pytest.fail("the model was asked"))


class Word(str):
    """A text that formats as something else."""

    def __format__(self, spec: str) -> str:
        return "something else"

    def __str__(self) -> str:
        return "something else"


class Named(str, enum.Enum):  # noqa: UP042  # StrEnum formats as its text
    DOC = DOCS[1]


@pytest.mark.regression
@pytest.mark.parametrize(
    "many", [iter, lambda groups: (group for group in groups), lambda groups: map(lambda g: g, groups), tuple]
)
def test_groups_are_ranked_whatever_gives_them(many: Any) -> None:
    groups = [tiny.group(number, 3) for number in range(4)]
    expected = reranker().rank_groups(groups)
    assert reranker().rank_groups(many(groups)) == expected and len(expected) == 4


@pytest.mark.regression
@pytest.mark.parametrize(
    "pairs",
    [
        lambda: ((QUERY, doc) for doc in DOCS),
        lambda: zip([QUERY] * 3, DOCS, strict=True),
        lambda: map(lambda doc: [QUERY, doc], DOCS),
        lambda: TABLE[["query", "text"]].itertuples(index=False),
    ],
)
def test_pairs_are_scored_whatever_gives_them(pairs: Any) -> None:
    assert reranker().compute_score(pairs()) == reranker().compute_score([[QUERY, doc] for doc in DOCS])


@pytest.mark.regression
@pytest.mark.parametrize(
    "docs",
    [
        TABLE,
        TABLE.iloc[:1],
        {"d1": "on the mat"},
        {"on the mat": 1.0}.items(),
        set(DOCS),
        frozenset(DOCS),
        None,
        7,
        b"on the mat",
        np.array(DOCS[0]),
        np.array([DOCS]),
        [DOCS],
        [{"text": "on the mat"}],
        [b"on the mat"],
        [Path("on")],
        ["a", float("nan")],
        pandas.Series(["a", None]),
    ],
)
def test_documents_that_are_no_list_of_texts_are_refused(docs: Any, idle: None) -> None:
    with pytest.raises(InputError, match="rank takes a list of documents|document . of group 0 must be a text"):
        reranker().rank(QUERY, docs)


@pytest.mark.regression
@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (TABLE, r"two of its columns"),
        (TABLE[["query", "text"]].iloc[:2], r"two of its columns"),
        ({QUERY: "on the mat", "another": "a cat"}, r"list\(pairs.items\(\)\)"),
        ([{"query": QUERY, "text": "on the mat"}], r'pair 0 .* \[pair\["query"\], pair\["document"\]\]'),
        ([{QUERY, "on the mat"}], "pair 0 must be two texts"),
        ({(QUERY, "on the mat")}, "a set, which has no order"),
        (None, "compute_score takes pairs"),
        ([None], "pair 0 must be two texts"),
        ([[QUERY, 3.0]], "pair 0 must be two texts"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs: Any, said: str, idle: None) -> None:
    with pytest.raises(InputError, match=said):
        reranker().compute_score(pairs)


@pytest.mark.regression
@pytest.mark.parametrize(
    "groups", [None, Group(QUERY, DOCS), {"q": Group(QUERY, DOCS)}, [(QUERY, DOCS)], TABLE, [None], "ab"]
)
def test_groups_that_are_none_are_refused(groups: Any, idle: None) -> None:
    with pytest.raises(InputError, match=r"rank_groups takes a list of Group|group 0 must be a Group"):
        reranker().rank_groups(groups)


@pytest.mark.regression
def test_columns_are_taken_by_place() -> None:
    labels = pandas.Series([1, 0, 2], index=[2, 1, 0])
    group = Group(QUERY, TABLE["text"], labels, doc_ids=pandas.Series(["a", "b", "c"], index=[5, 4, 0]))
    assert (group.docs, group.labels, group.doc_ids) == (DOCS, [1, 0, 2], ["a", "b", "c"])
    expected = reranker().rank(QUERY, DOCS)
    for docs in (TABLE["text"], TABLE["text"].to_numpy(), np.array(DOCS), tuple(DOCS), dict.fromkeys(DOCS).keys()):
        assert reranker().rank(QUERY, docs) == expected
    assert reranker().rank_groups([group])[0] == expected


@pytest.mark.regression
@pytest.mark.parametrize(
    "wrong",
    [
        {"docs": (doc for doc in DOCS)},
        {"docs": "on"},
        {"docs": None},
        {"docs": TABLE},
        {"docs": {"a": "b", "c": "d", "e": "f"}},
        {"labels": [1.0, float("nan"), 0.0]},
        {"labels": ["1", "0", "0"]},
        {"labels": iter([1.0, 0.0, 0.0])},
        {"teacher_scores": [1.0, float("inf"), 0.0]},
        {"doc_ids": [1, 2, 3]},
        {"doc_ids": {"a", "b", "c"}},
        {"labels": [1.0]},
    ],
)
def test_a_group_that_is_none_is_refused_as_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^group 'open a file': .*{next(iter(wrong))}"):
        Group(**{"query": QUERY, "docs": DOCS, **wrong})


@pytest.mark.regression
@pytest.mark.parametrize("top_k", [2.0, 2.5, "2", True, 0, -1, [2], float("nan")])
def test_a_top_that_is_none_is_refused_before_the_work(top_k: Any, idle: None) -> None:
    with pytest.raises(InputError, match=r"^top_k = "):
        reranker().rank(QUERY, DOCS, top_k=top_k)


def test_any_whole_number_is_a_top() -> None:
    expected = reranker().rank(QUERY, DOCS)
    for top_k in (2, np.int64(2), torch.tensor(2)):
        assert reranker().rank(QUERY, DOCS, top_k=top_k) == expected[:2]  # type: ignore[arg-type]
    assert reranker().rank(QUERY, DOCS, top_k=10**30) == expected


@pytest.mark.regression
@pytest.mark.parametrize("passages", [200, "200", Passages, {"tokens": 200}, True])
def test_passages_that_are_none_are_refused_before_the_work(passages: Any, idle: None) -> None:
    with pytest.raises(InputError, match=r"^passages = .* must be Passages"):
        reranker().rank(QUERY, DOCS, passages=passages)


@pytest.mark.regression
@pytest.mark.parametrize("wrong", [{"tokens": "200"}, {"tokens": 100.5}, {"most": True}, {"overlap": None}])
def test_passages_of_no_whole_number_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"passages: {next(iter(wrong))} = .* must be a whole number"):
        Passages(**wrong)


@pytest.mark.regression
@pytest.mark.parametrize("query", [None, 7, b"open", Path("open"), ["open"], float("nan"), "a \udcff file"])
def test_a_query_that_is_no_text_is_refused(query: Any, idle: None) -> None:
    with pytest.raises(InputError, match="the query of group 0 "):
        reranker().rank(query, DOCS)


@pytest.mark.regression
@pytest.mark.parametrize("device", [torch.bfloat16, torch.float16, "bfloat16", "gpu", "meta", None, -3, 2.5])
def test_what_is_no_device_is_refused_and_moves_nothing(device: Any) -> None:
    own = Reranker(tiny.parts())
    before = own.rank(QUERY, DOCS)
    with pytest.raises(InputError, match=r"to\("):
        own.to(device)
    assert own.parts.backbone.module.dtype == torch.float32 and own.rank(QUERY, DOCS) == before


def test_kinds_of_text_score_as_their_characters() -> None:
    plain = reranker().compute_score([QUERY, DOCS[1]])
    for text in (Word(DOCS[1]), Named.DOC, np.str_(DOCS[1])):
        assert reranker().compute_score([[Word(QUERY), text]]) == plain
        assert [found.score for found in reranker().rank(QUERY, [text])] == pytest.approx(plain, abs=1e-6)


@pytest.mark.regression
def test_one_broken_text_of_many_is_named_and_the_others_are_ranked(caplog: pytest.LogCaptureFixture) -> None:
    docs = [*DOCS, "half \ud83d a pair", *DOCS]
    found = reranker().rank(QUERY, docs)
    assert reranker().costs.warnings == {"documents_undecoded": 1}
    whole = reranker().rank(QUERY, [text.replace("\ud83d", "\ufffd") for text in docs])
    assert [(one.index, one.score) for one in found] == [(one.index, one.score) for one in whole]
    assert next(one.text for one in found if one.index == 3) == docs[3]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("1 document read with U+FFFD") and "document 3 of group 0" in said
    with pytest.raises(InputError, match="document 3 of group 0"):
        reranker().rank(QUERY, docs, warnings="error")


def test_the_mode_of_warnings_is_the_rerankers_unless_a_call_says_otherwise(tmp_path: Path) -> None:
    strict = Reranker.from_recipe(tiny.recipe(tmp_path / "r.cfg"), warnings="error")
    broken = [QUERY, "half \ud83d"]
    with pytest.raises(InputError, match="1 document read with"):
        strict.compute_score(broken)
    assert strict.compute_score(broken, warnings="log") == strict.compute_score([QUERY, "half \ufffd"])
    for wrong in ("ignore", "", True, 0):
        with pytest.raises(InputError, match="must be 'log' or 'error'"):
            strict.rank(QUERY, DOCS, warnings=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="must be 'log' or 'error'"):
            Reranker(tiny.parts(), warnings=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be 'log' or 'error'"):
        Reranker.from_pretrained("anything", warnings="all")  # type: ignore[arg-type]


def test_calls_of_several_threads_count_apart() -> None:
    own, counted = [Reranker(tiny.parts()) for _ in range(3)], dict[int, dict[str, int]]()

    def rank(number: int) -> None:
        own[number].rank(QUERY, ["half \ud83d"] * number + DOCS)
        counted[number] = own[number].costs.warnings

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == {0: {}, 1: {"documents_undecoded": 1}, 2: {"documents_undecoded": 2}}


def test_what_the_tokenizing_thread_warns_of_is_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit import rows_ahead
    from rerankkit.warnings import collecting, warn

    monkeypatch.setattr(rows_ahead, "ENCODED_AT_ONCE", 2)
    names = set()

    def encode(asks: Any) -> list[Any]:
        names.add(threading.current_thread().name)
        warn("documents_cut", "one", len(asks))
        return [None] * len(asks)

    group = tiny.group(1, 7)
    asks = [engine.Ask(group, (position,)) for position in range(7)]
    with collecting() as counted:
        assert sum(map(len, rows_ahead.rows_ahead(asks, encode))) == 7
    assert counted.counts == {"documents_cut": 7} and threading.current_thread().name not in names
    with pytest.raises(InputError, match="2 documents cut"), collecting(strict=True):
        list(rows_ahead.rows_ahead(asks, encode))


@pytest.mark.regression
def test_evaluation_takes_groups_whatever_gives_them(tmp_path: Path) -> None:
    from rerankkit.evaluating import evaluate

    groups = [Group(QUERY, DOCS, [0.0, 1.0, 0.0], qid=f"q{number}") for number in range(3)]
    found = evaluate({"model": reranker()}, (group for group in groups), ["RR@10"], None, None, None)
    assert found.queries == 3 and found == evaluate({"model": reranker()}, groups, ["RR@10"], None, None, None)


@pytest.mark.regression
def test_two_documents_of_one_id_are_named_before_the_work(idle: None) -> None:
    from rerankkit.ranking import rerank

    with pytest.raises(InputError, match="query 'q1' has two documents of the id 'b'"):
        rerank(reranker(), [Group(QUERY, DOCS, doc_ids=["a", "b", "b"])], None)


@pytest.mark.regression
def test_the_documents_of_test_data_without_ids_are_all_there(tmp_path: Path) -> None:
    from rerankkit import ranking

    (tmp_path / "t.jsonl").write_text(
        '{"query": "a", "docs": ["file one", "file two"]}\n{"query": "b", "docs": ["file three", "file four"]}\n'
    )
    extra = f'[data]\n[data.test]\n@readers = "jsonl.v1"\npath = "{tmp_path}/t.jsonl"\n'
    own = Reranker.from_recipe(tiny.recipe(tmp_path / "r.cfg", extra=extra))
    (group,) = ranking.own_group("file", 10, own)
    assert sorted(group.docs) == ["file four", "file one", "file three", "file two"]


@pytest.mark.regression
def test_a_name_that_is_none_and_overrides_that_are_none_are_refused(tmp_path: Path) -> None:
    for wrong in (None, 5, ["a"]):
        with pytest.raises(InputError, match="a recipe must be a name or a path; got"):
            Reranker.from_recipe(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="a model must be a name or a path; got"):
            Reranker.from_pretrained(wrong)  # type: ignore[arg-type]
    recipe = tiny.recipe(tmp_path / "r.cfg")
    for load in (Reranker.from_recipe, Reranker.from_pretrained):
        with pytest.raises(InputError, match="overrides must be a dict such as"):
            load(recipe, "model.backbone.dtype=bf16")  # type: ignore[operator]


@pytest.mark.regression
@pytest.mark.parametrize("warned", [False, True])
def test_a_call_in_another_thread_has_a_bill_of_its_own(warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import rerankkit.reranker as module
    from rerankkit.bill import Bill

    ranker = Reranker(tiny.parts())
    pairs = [[f"open a file {number}", "a cat " * (4000 * warned)] for number in range(3)]
    alone = ranker.compute_score(pairs)

    class Meanwhile(module.Scoring):
        def score(self, *given: Any) -> Any:
            other = threading.Thread(target=setattr, args=(ranker, "bill", Bill.blank(0)))
            other.start()
            other.join()
            return super().score(*given)

    monkeypatch.setattr(module, "Scoring", Meanwhile)
    assert ranker.compute_score(pairs) == alone
    assert len(ranker.bill.queries) == 3 and ranker.costs.warnings == ({"documents_cut": 3} if warned else {})
