"""Queries and corpora as TSV, as TREC's SGML and as BEIR folders, plain or gzip, and what is wrong in each."""

import gzip
import json
from pathlib import Path

import pytest

from rerankkit.collection import read_corpus, read_queries
from rerankkit.errors import InputError

TOPICS = """
<top>
<head> Tipster Topic Description
<num> Number: 301
<title> International
  Organized Crime

<desc> Description:
Identify organizations &amp; people.
<narr> Narrative:
</top>
<top><num>302</num><title>Topic: R&amp;D "now"</title></top>
"""
TOPICS_READ = {"301": "International Organized Crime", "302": 'R&D "now"'}
DOCUMENTS = """<?xml version="1.0"?>
<DOC>
<DOCNO> FT911-1 </DOCNO>
<DATE>910514</DATE>
<HEADLINE>
FT  14 MAY 91 / Prices &amp; wages
</HEADLINE>
<TEXT>
<P>Prices rose;   1 < 2,</P><P>wages
did not.</P>
</TEXT>
<TEXT>More.</TEXT>
</DOC>
<doc id="x"><docno>LA2</docno><byline>nobody</byline></doc>
"""
DOCUMENTS_READ = {"FT911-1": "FT 14 MAY 91 / Prices & wages Prices rose; 1 < 2, wages did not. More.", "LA2": ""}
XML = """<?xml version="1.0" encoding="UTF-8"?>
<topics task="x">
  <topic number="1" type="faceted">
    <query>R&amp;D
      origin</query>
    <title>not this</title>
    <description>What is it?</description>
    <subtopic number="7" type="inf">a</subtopic>
  </topic>
  <topic><number> 102 </number><title lang="en">masks</title><narrative>n</narrative></topic>
  <Topic id='CT-3'>
    A patient is 45 years old; blood pressure &lt; 90.
  </Topic>
</topics>
"""
XML_READ = {"1": "R&D origin", "102": "masks", "CT-3": "A patient is 45 years old; blood pressure < 90."}
PAGES = 'D1\thttps://a.org/x\tA title \tThe body, "quoted".\n\nD2\thttp://b.org\t\tno title\r\nD3\t\tonly a title\t\n'
PAGES_READ = {"D1": 'A title  The body, "quoted".', "D2": "no title", "D3": "only a title "}
TSV = "q1\t\"what is 'x' ? \nq2\ta\r\n\n007\tb\n"
TSV_READ = {"q1": "\"what is 'x' ? ", "q2": "a", "007": "b"}


@pytest.mark.parametrize(
    ("read", "name", "text", "expected"),
    [
        (read_queries, "topics.txt", TOPICS, TOPICS_READ),
        (read_corpus, "docs.sgml", DOCUMENTS, DOCUMENTS_READ),
        (read_queries, "queries.tsv", TSV, TSV_READ),
        (read_corpus, "collection", TSV, TSV_READ),
        (read_queries, "topics.xml", XML, XML_READ),
        (read_queries, "one-line", XML.replace("\n", " "), XML_READ),
        (read_corpus, "msmarco-docs.tsv", PAGES, PAGES_READ),
        (read_corpus, "msmarco-docs", PAGES, PAGES_READ),
        (read_corpus, "collection.tsv", "d1\t\nd2\tx\n", {"d1": "", "d2": "x"}),
        (read_queries, "q.json", '\n{"_id": "1", "text": "a\\tb"}\n', {"1": "a\tb"}),
    ],
)
def test_each_form_plain_and_packed(tmp_path: Path, read, name: str, text: str, expected: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / name).write_bytes(text.encode())
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert read(tmp_path / name) == read(tmp_path / f"{name}.gz") == expected


def test_a_beir_folder_stands_for_its_files(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "a"}))
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "d", "title": "T", "text": "b"}'))
    assert (read_queries(tmp_path), read_corpus(tmp_path)) == ({"q": "a"}, {"d": "T b"})
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"neither queries.jsonl nor queries.jsonl.gz is in this folder"):
        read_queries(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.tsv", "1\ta\n2 b\n", 'a.tsv:2: expected 2 columns, id<TAB>text, but found 1: "2 b"; a tab goes behind'),
        ("a.tsv", "1\ta\n2\tb\tc\n", "a.tsv:2: expected 2 columns, id<TAB>text, but found 3"),
        ("a.tsv", "qid\tquery\n1\ta\n", "a.tsv:1: .* looks like a header"),
        ("a.tsv", "1\ta\n1\tb\n", "a.tsv:2: query id '1' was given before, in line 1"),
        ("a.tsv", "1\ta\n \tb\n", 'a.tsv:2: "_id" is empty'),
        ("a.tsv", "1\t\n", 'a.tsv:1: "text" is empty'),
        ("a.tsv", "\n", "a.tsv: the file is empty"),
        ("a.tsv", "1\ta\n2\t\udcff\n", "a.tsv:2: byte 3 of the line .0xff. is not UTF-8"),
        ("a", "hello\n", 'a:1: "hello" is neither JSON'),
        ("a", "\n\n", "a: the file is empty"),
        ("a", "<top>\n<num> 1\n</top>\n", "a:1: expected one <title> .* found 0"),
        ("a", "<top><num>1<num>2<title>x</top>\n", "a:1: expected one <num> .* found 2"),
        ("a", "<top>\n<num>1<title>\n<desc>x</top>\n", 'a:1: "text" is empty'),
        ("a", "<top><num>1<title>x</top>\n<top><num>Number: 1<title>y</top>", "a:2: query id '1' was given before"),
        ("a", "\n<top><num>1<title>x\n<top>\n", "a:2: no </top> before the next <top> in line 3"),
        ("a", "<top><num>1<title>x\n", "a:1: this <top> has no </top>"),
        ("a", "</top>\n", "a:1: </top> closes nothing"),
        ("a", "<top><num>1<title>x</top>\nlost\n", "a:2: 'lost' is in no <top>"),
        ("a", "<topics>\n</topics>\n", "a: no <top> in this file"),
        ("a.tsv", "1\thttp://a\tb\tc\n", "a.tsv:1: expected 2 columns, id<TAB>text, but found 4"),
        ("a", '<topic number="1">\n<desc>x</desc></topic>', "a:1: expected one <query> or <title> .* found 0"),
        ("a", '<topic number="1"><query>x</query><query>y</query></topic>', "a:1: expected one <query> .* found 2"),
        ("a", "<topic><query>x</query></topic>", "a:1: expected one <number> .* found 0"),
        ("a", '<topic number=""><query>x</query></topic>', 'a:1: "_id" is empty'),
        ("a", '<topic number="1"><query> </query></topic>', 'a:1: "text" is empty'),
        (
            "a",
            '<topic number="1">x</topic>\n<topic number="1">y</topic>',
            "a:2: query id '1' was given before, in line 1",
        ),
        ("a", '<topic number="1">\n<query>x</query>\n', "a:1: this <topic> has no </topic>"),
        ("a", '<topic number="1">x\n<topic number="2">y', "a:1: no </topic> before the next <topic> in line 2"),
        ("a", '<topic number="1">x</topic>\nlost', "a:2: 'lost' is in no <topic>"),
        ("a", "<top>\n<title>\udcff\n", "a:2: byte 8 of the line"),
    ],
)
def test_what_is_wrong_in_queries_is_said_with_its_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=says):
        read_queries(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "D1\thttp://a\tT\tb\nD2\thttp://b\tT\n",
            "a.tsv:2: expected 4 columns, docid<TAB>url<TAB>title<TAB>body, .* 3",
        ),
        ("D1\thttp://a\tT\tb\nD2\thttp://b\tT\tb\tc\n", "a.tsv:2: expected 4 .* found 5: .*; replace tabs"),
        ("D1\thttp://a\tT\tb\nD2\tb\n", "a.tsv:2: expected 4 columns, .* found 2"),
        ("D1\tb\nD2\thttp://b\tT\tb\n", "a.tsv:2: expected 2 columns, id<TAB>text, but found 4"),
        ("D1\ttext\twith\ttabs\n", "a.tsv:1: expected 2 columns, id<TAB>text, but found 4"),
        ("docid\turl\ttitle\tbody\nD1\thttp://a\tT\tb\n", "a.tsv:1: .* looks like a header"),
        ("D1\thttp://a\tT\tb\nD1\thttp://a\tT\tc\n", "a.tsv:2: document id 'D1' was given before, in line 1"),
        ("\thttp://a\tT\tb\n", 'a.tsv:1: "_id" is empty'),
    ],
)
def test_what_is_wrong_in_rows_of_documents_is_said_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_corpus(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<DOC><TEXT>x</TEXT></DOC>", "a:1: expected one <DOCNO>"),
        (
            "<DOC><DOCNO>1</DOCNO><BODY>x</BODY></DOC>",
            "a: no document has any text; it is read from the elements TITLE",
        ),
        ("<DOC><DOCNO> </DOCNO><TEXT>x</TEXT></DOC>", 'a:1: "_id" is empty'),
        ("<top><num>1<title>x</top>", "a:1: 'x' is in no <DOC>|a:1: '1x' is in no <DOC>"),
    ],
)
def test_what_is_wrong_in_documents_is_said_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match=says):
        read_corpus(tmp_path / "a")
