"""The standard library's docstrings as queries and documents."""

import subprocess
import sys
from pathlib import Path

import pytest

from rerankkit.docstrings import as_pair
from rerankkit.errors import InputError
from rerankkit.readers import stdlib_docs as module
from rerankkit.readers.stdlib_docs import StdlibDocs

BODY = "It goes on for a good while so that there is enough for a document to hold, which is twenty words."


@pytest.mark.parametrize(
    ("docstring", "query"),
    [
        (f"Return the sum of\nall items.\n\n{BODY}", "Return the sum of all items."),
        (f"Return the sum of all items. {BODY}", "Return the sum of all items."),
        (f"Return sums.\n\n{BODY}", None),
        ("Return the sum of all items.\n\nToo short.", None),
        (f"sum(items, start) of all items\n\n{BODY}", None),
        (f"sum of items -> a number of them\n\n{BODY}", None),
        (f"Return the sum of all items.\n\nReturn the sum of all items. {BODY}", None),
        ("Return the sum of all items.\n\n" + ">>> sum([1, 2]) == 3 or {'a': 1}\n" * 9, None),
    ],
)
def test_what_makes_a_query_and_a_document(docstring: str, query: str | None) -> None:
    pair = as_pair(docstring)
    assert pair == (None if query is None else (query, BODY))


def test_the_splits_share_nothing() -> None:
    queries, modules, texts = [], [], []
    for split in module.SPLITS:
        groups = list(StdlibDocs(split, candidates=1, add_positives=True))
        assert len(groups) > 100
        assert all(max(group.labels or []) == 1 for group in groups)
        queries.append({group.query.lower() for group in groups})
        modules.append({group.qid.split(":")[0].split(".")[0] for group in groups})
        texts.append({group.docs[(group.doc_ids or []).index(group.qid)] for group in groups})
    for kind in (queries, modules, texts):
        assert not kind[0] & kind[1] and not kind[0] & kind[2] and not kind[1] & kind[2]
    assert len(queries[0]) > len(queries[2]) > 200


def test_a_split_ranks_among_its_own_documents_and_earlier_ones() -> None:
    for split in module.SPLITS:
        seen = {module.split_of(d.split(":")[0].split(".")[0]) for g in StdlibDocs(split) for d in g.doc_ids or []}
        assert seen == set(module.SPLITS[: module.SPLITS.index(split) + 1])


def test_a_known_docstring_arrives() -> None:
    groups = {group.qid: group for group in StdlibDocs("test", candidates=5, add_positives=True)}
    group = groups["statistics:harmonic_mean"]
    assert group.query == "Return the harmonic mean of data."
    assert group.judged == {"statistics:harmonic_mean": 1}
    assert group.first_scores is not None and len(group.first_scores) == len(group.docs) >= 5


def test_other_packages_join_the_train_split_alone_and_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "acme_docs"
    package.mkdir()
    (package / "__init__.py").write_text(
        f'raise RuntimeError\ndef f():\n    """Explain the acme part here.\n\n    {BODY}"""\n'
        f'class A:\n    def m(self):\n        """Return the harmonic mean of data.\n\n        {BODY} Again."""\n'
    )
    (package / "broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    added = {g.qid for g in StdlibDocs(packages=["acme_docs"])} - {g.qid for g in StdlibDocs()}
    assert added == {"acme_docs:f"}  # a query of the test split stays out
    test = StdlibDocs("test", packages=["acme_docs"])
    assert not any(docid.startswith("acme_docs") for group in test for docid in group.doc_ids or [])
    assert "acme_docs" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "os.path", "../x"])
def test_a_package_that_is_not_installed_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no installed package named"):
        StdlibDocs(packages=[name])


def test_the_same_in_another_process() -> None:
    code = "from rerankkit.readers.stdlib_docs import StdlibDocs; print(repr(list(StdlibDocs('test', limit=40))))"
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(list(StdlibDocs("test", limit=40)))
