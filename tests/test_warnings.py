"""Warnings are counted, said once, and errors where that is asked for."""

import logging

import pytest

from rerankkit.errors import InputError
from rerankkit.warnings import collecting, warn


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
