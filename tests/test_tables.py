"""What a user sees of a comparison."""

import io

from rich.console import Console

from rerankkit.evaluate import compare
from rerankkit.tables import render


def test_a_table_says_everything_in_one_screen() -> None:
    qrels = {f"q{i}": {"a": 1} for i in range(12)}
    first = {qid: {"b": 2.0, "a": 1.0} for qid in qrels if qid != "q3"} | {"x": {"a": 1.0}}
    good = {qid: {"a": 2.0, "b": 1.0} for qid in qrels}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(compare({"BM25": first, "same": first, "mine": good}, qrels, ["RR@10"]), "demo"))
    text = " ".join(console.export_text().split())
    for part in (
        "demo",
        "0.458",
        "no difference",
        "1.000  +0.542",
        "[+0.500, +0.625]",
        "p < 0.001  12/0/0",
        "50%",
        "12 queries; queries without results count 0.",
        "Queries without results: BM25 1, same 1.",
        "Queries without judgements, left out: BM25 1, same 1.",
        "Against BM25",
        "(Holm)",
    ):
        assert " ".join(part.split()) in text
