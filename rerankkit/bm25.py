"""BM25 over bm25s: the first stage that needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from rerankkit.errors import InputError
from rerankkit.words import words

TermIds = list[int]


class BM25:
    """An index of documents in memory: English stop words left out, no stemming, Lucene's variant of the formula.

    Scripts that write no spaces, such as Chinese, Japanese and Thai, are read by characters and pairs of them.

    Args:
        k1: How soon a repeated term stops counting more. 0.9 with b = 0.4 are the values usual for BEIR.
        b: How much long documents are held back, from 0 to 1.
    """

    def __init__(self, documents: Sequence[str], k1: float = 0.9, b: float = 0.4) -> None:
        import bm25s

        if k1 < 0 or not 0 <= b <= 1:
            raise InputError(f"BM25 needs k1 >= 0 and b from 0 to 1, but k1 = {k1} and b = {b}")
        self.size = len(documents)
        self._index: Any = None
        self._vocabulary: dict[str, int] = {}
        ids = [
            [self._vocabulary.setdefault(word, len(self._vocabulary)) for word in _terms(text)] for text in documents
        ]
        if self._vocabulary:
            self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
            # ids in the order of first occurrence: with words, bm25s numbers them in the order of a set, which differs
            # from process to process, and so would the last bit of the scores
            tokens = bm25s.tokenization.Tokenized(ids, self._vocabulary)
            self._index.index(tokens, show_progress=False, create_empty_token=False)

    def search(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """The positions and scores of the best `k` documents of each query, best first; equal scores keep the
        documents' order, and documents without a term of the query are left out."""
        known = self._vocabulary
        term_ids = [[known[word] for word in _terms(query) if word in known] for query in queries]
        return [self._best(ids, k) for ids in progress(term_ids, "BM25")]

    def _best(self, ids: TermIds, k: int) -> list[tuple[int, float]]:
        import numpy as np

        if not ids or k < 1:
            return []
        scores = self._index.get_scores_from_ids(ids)  # [documents]
        hits = np.flatnonzero(scores > 0)
        if len(hits) > k:
            least = np.partition(scores[hits], len(hits) - k)[len(hits) - k]
            hits = hits[scores[hits] >= least]
        order = hits[np.argsort(-scores[hits], kind="stable")][:k]
        return [(int(position), float(scores[position])) for position in order]


def _terms(text: str) -> list[str]:
    stop = _stop_words()
    return [word for word in words(text) if word not in stop]


@cache
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)


def progress(items: Sequence[Any], description: str) -> Iterator[Any]:
    """The items, with a progress bar on stderr where that is a terminal and there are many."""
    if len(items) < 1000:
        yield from items
        return
    from rerankkit.progress import Bar  # rich takes its time

    with Bar(description) as bar:
        bar.start(len(items))
        for item in items:
            yield item
            bar.advance()
