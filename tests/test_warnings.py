"""Warnings are counted, said once, and errors where that is asked for."""

import contextvars
import logging
import threading

import pytest

from rerankkit.errors import InputError
from rerankkit.warnings import KINDS, collecting, counts, say, summary, warn


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_kind_is_counted_and_said_once_with_its_first_example(caplog):
    with collecting() as outer:
        for name in "ab":
            with collecting() as inner:
                warn("documents_cut", f"document {name!r}", 2)
            assert inner.counts == {"documents_cut": 2}
        assert said(caplog) == []
    assert outer.counts == {"documents_cut": 4}
    (sentence,) = said(caplog)
    assert sentence.startswith("4 documents cut, such as document 'a'; raise ")
    with collecting():
        warn("documents_cut", "document 'c'")
    warn("documents_cut", "document 'd'")
    assert len(said(caplog)) == 1


def test_strict_raises_where_it_happens_also_from_an_inner_block(caplog):
    with pytest.raises(InputError, match="document 'a'"), collecting(strict=True), collecting():
        warn("documents_cut", "document 'a'")
    assert said(caplog) == []


def test_what_was_counted_is_said_even_where_the_work_failed(caplog):
    with pytest.raises(RuntimeError), collecting():
        warn("queries_cut", "query 'q'", remedy="ask less")
        raise RuntimeError
    assert said(caplog) == ["1 query cut, such as query 'q'; ask less"]


def test_a_kind_reads_as_a_sentence():
    for kind, (noun, done, remedy) in KINDS.items():
        assert kind == kind.lower() and noun == noun.strip() and done == done.strip() and remedy, kind
        assert not noun.endswith("s") and not remedy[0].isupper() and not remedy.endswith("."), kind
        with collecting(passed_on=False) as counted:
            warn(kind, "an example", 2)
            warn(kind, "another", 1198)
            assert summary() == f" ({counted.brief(kind)})"
        assert counted.sentence(kind).startswith("1,200 ") and ", such as an example; " in counted.sentence(kind)


def test_what_is_counted_elsewhere_is_neither_said_nor_told_an_outer_block(caplog):
    with collecting() as outer:
        with collecting(passed_on=False) as inner:
            warn("documents_cut", "document 'a'")
        assert inner.counts == {"documents_cut": 1} and counts() == {}
        with pytest.raises(InputError), collecting(strict=True, passed_on=False):
            warn("documents_cut", "document 'a'")
    assert outer.counts == {} and said(caplog) == []


def test_what_is_said_early_is_not_said_again_and_counted_to_the_end(caplog):
    with collecting():
        warn("queries_left_out", "query 'a'")
        say()
        assert len(said(caplog)) == 1
        warn("queries_left_out", "query 'b'")
        assert counts() == {"queries_left_out": 2}
    assert len(said(caplog)) == 1


def test_what_several_threads_count_adds_up(caplog):
    context = None
    with collecting() as counted:
        threads = []
        for _ in range(8):
            context = contextvars.copy_context()
            work = lambda: [warn("documents_cut", "one") for _ in range(500)]  # noqa: E731
            threads.append(threading.Thread(target=context.run, args=(work,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counted.counts == {"documents_cut": 4000}
    assert said(caplog) == [counted.sentence("documents_cut")]
