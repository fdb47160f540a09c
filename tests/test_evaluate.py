"""Measures against their definitions and pytrec_eval, interpolation, and honest comparisons."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import pytrec_eval
import scipy.stats

from rerankkit.errors import InputError
from rerankkit.evaluate import (
    compare,
    difference,
    first_run,
    holm,
    interpolate,
    measure,
    prepare,
    qrels_of,
    randomisation_p,
    run_of,
    tune_weight,
)
from rerankkit.protocols import Group, Ranked
from rerankkit.trec import Qrels, Run, best_first


def naive_ndcg(order: list[str], grades: dict[str, int], k: int) -> float:
    def dcg(gains: list[int]) -> float:
        return sum(max(g, 0) / math.log2(i + 2) for i, g in enumerate(gains[:k]))

    ideal = dcg(sorted(grades.values(), reverse=True))
    return dcg([grades.get(d, 0) for d in order]) / ideal if ideal else 0.0


def naive_rr(order: list[str], grades: dict[str, int], k: int) -> float:
    return next((1 / i for i, d in enumerate(order[:k], start=1) if grades.get(d, 0) > 0), 0.0)


def some_data(seed: int, ties: bool) -> tuple[Run, Qrels]:
    rng = random.Random(seed)
    docids = [f"d{i}" for i in range(40)]
    qrels = {f"q{i}": {d: rng.choice([0, 0, 0, 1, 2, 3]) for d in rng.sample(docids, 12)} for i in range(30)}
    score = (lambda: float(rng.randint(0, 3))) if ties else rng.random
    run = {f"q{i}": {d: score() for d in rng.sample(docids, 25)} for i in range(3, 33)}
    return run, qrels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_their_definitions_and_pytrec_eval(seed: int, ties: bool) -> None:
    run, qrels = some_data(seed, ties)
    measured = measure(run, qrels, ["nDCG@10", "RR@10", "RR", "AP", "R@20"])
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10", "recip_rank", "map", "recall_20"}).evaluate(run)
    for qid, grades in qrels.items():
        order = best_first(run.get(qid, {}))
        assert measured.values["nDCG@10"][qid] == pytest.approx(naive_ndcg(order, grades, 10), abs=1e-9)
        assert measured.values["RR@10"][qid] == pytest.approx(naive_rr(order, grades, 10), abs=1e-9)
        for ours, name in (("nDCG@10", "ndcg_cut_10"), ("RR", "recip_rank"), ("AP", "map"), ("R@20", "recall_20")):
            assert measured.values[ours][qid] == pytest.approx(theirs.get(qid, {}).get(name, 0.0), abs=1e-9)
    assert measured.missing == ["q0", "q1", "q2"]
    assert measured.unjudged == ["q30", "q31", "q32"]
    assert measured.mean("AP") == pytest.approx(sum(t["map"] for t in theirs.values()) / 30)
    shares = [sum(d in qrels[q] for d in best_first(run[q])[:10]) / 10 for q in qrels if q in run]
    assert measured.judged_at_10 == pytest.approx(sum(shares) / len(shares))


def test_junk_grades_below_0_and_queries_without_a_relevant_document_count_0() -> None:
    measured = measure({"q": {"a": 2.0, "b": 1.0}, "r": {"a": 1.0}}, {"q": {"a": -2, "b": 1}, "r": {"a": 0}})
    assert measured.values["nDCG@10"] == {"q": pytest.approx(1 / math.log2(3)), "r": 0.0}
    assert measured.values["RR@10"] == {"q": 0.5, "r": 0.0}


def test_a_run_without_any_judged_query_measures_0() -> None:
    measured = measure({"x": {"a": 1.0}, "q": {}}, {"q": {"a": 1}})
    assert (measured.mean("nDCG@10"), measured.missing, measured.unjudged) == (0.0, ["q"], ["x"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ndcg@10", r"did you mean nDCG@10\?"),
        ("mrr@5", r"did you mean RR@5\?"),
        ("map", r"did you mean AP\?"),
        ("nDCG@0", "examples: nDCG@10"),
        ("nDCG@x", "examples: nDCG@10"),
        ("beauty", "examples: nDCG@10"),
        ("nDCG(beauty=1)@10", "examples"),
        ("nDCG@10 RR@10", "examples"),
        ("__import__('os')", "examples"),
    ],
)
def test_unknown_measures_are_refused(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        measure({"q": {"a": 1.0}}, {"q": {"a": 1}}, [name])


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(score: float) -> None:
    with pytest.raises(InputError, match="query 'q', document 'b'"):
        measure({"q": {"a": 1.0, "b": score}}, {"q": {"a": 1}})
    with pytest.raises(InputError, match="query 'q1', document 'd2'"):
        run_of(prepare([Group("?", ["x", "y"], first_scores=[2, 1])]), [[Ranked(0, 1.0, "x"), Ranked(1, score, "y")]])


def test_groups_become_runs_and_qrels() -> None:
    groups = prepare(
        [
            Group("a", ["x", "y", "z"], [0, 1, 0], first_scores=[1.0, 5.0, 5.0]),
            Group("b", ["x", "y"], [1, 0], qid="007", doc_ids=["X", "Y"], first_scores=[2, 1], judged={"X": 1, "W": 2}),
            Group("c", [], [], first_scores=[]),
        ]
    )
    assert qrels_of(groups) == {"q1": {"d1": 0, "d2": 1, "d3": 0}, "007": {"X": 1, "W": 2}, "q3": {}}
    first = first_run(groups)
    assert first is not None
    assert [list(scores) for scores in first.values()] == [["d2", "d3", "d1"], ["X", "Y"], []]
    rankings = [[Ranked(2, 0.5, "z"), Ranked(0, 0.5, "x"), Ranked(1, 0.9, "y")], [Ranked(1, 1.0, "y")], []]
    run = run_of(groups, rankings)
    assert [best_first(scores) for scores in run.values()] == [["d3", "d1", "d2"], ["Y"], []]


def test_a_model_that_says_nothing_gains_nothing_from_the_order_of_the_file() -> None:
    groups = prepare([Group(f"{i}", [f"p{i}", *(f"n{i}-{j}" for j in range(9))], [1] + [0] * 9) for i in range(200)])
    run = run_of(groups, [[Ranked(i, 0.0, doc) for i, doc in enumerate(group.docs)] for group in groups])
    chance = sum(1 / math.log2(i + 2) for i in range(10)) / 10
    assert measure(run, qrels_of(groups)).means["nDCG@10"] == pytest.approx(chance, abs=0.06)
    assert first_run(groups) is None
    for group in groups:
        assert group.labels == [float(doc.startswith("p")) for doc in group.docs]
        assert group.doc_ids == [f"d{1 + (int(d.split('-')[1]) + 1 if '-' in d else 0)}" for d in group.docs]


def test_groups_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(InputError, match="two groups have the query id 'q1'"):
        prepare([Group("a", []), Group("b", [], qid="q1")])
    with pytest.raises(InputError, match="pass the groups through prepare"):
        qrels_of([Group("a", ["x"], [1])])
    with pytest.raises(InputError, match=r"measures need whole grades, but the label is 0\.5"):
        qrels_of(prepare([Group("a", ["x"], [0.5])]))
    with pytest.raises(InputError, match="no query has a label"):
        qrels_of(prepare([Group("a", ["x"])]))


RUN: Run = {"q": {"a": 10.0, "b": 5.0, "c": 0.0}}
FIRST: Run = {"q": {"c": 3.0, "b": 2.0, "a": 1.0}}


def test_interpolation_is_the_weighted_sum_of_scaled_scores() -> None:
    assert interpolate(RUN, FIRST, 0.75)["q"] == pytest.approx({"a": 0.75, "b": 0.5, "c": 0.25})
    assert list(interpolate(RUN, FIRST, 1.0)["q"]) == ["a", "b", "c"]
    assert list(interpolate(RUN, FIRST, 0.0)["q"]) == ["c", "b", "a"]
    assert list(interpolate(RUN, FIRST, 0.5)["q"]) == ["a", "b", "c"]  # all equal: the run's own order
    assert list(interpolate(RUN, {}, 0.5)["q"]) == ["a", "b", "c"]
    assert list(interpolate(RUN, {"q": {"c": 7.0}}, 0.3)["q"]) == ["c", "a", "b"]
    assert interpolate({"q": {"a": 3.0}}, FIRST, 0.5)["q"] == {"a": 0.25}
    assert list(interpolate({"q": {"b": 1.0, "a": 1.0}}, {"q": {"a": 2.0, "b": 1.0}}, 0.5)["q"]) == ["a", "b"]
    assert interpolate({"q": {}}, FIRST, 0.5) == {"q": {}}
    with pytest.raises(InputError, match="between 0 and 1"):
        interpolate(RUN, FIRST, 1.5)


def test_weights_are_tuned_on_the_measure() -> None:
    assert tune_weight(RUN, FIRST, {"q": {"a": 1}}) == 1.0
    assert tune_weight(RUN, FIRST, {"q": {"c": 1}}) == 0.4
    run, qrels = some_data(1, ties=False)
    first, _ = some_data(2, ties=False)
    best = tune_weight(run, first, qrels)
    values = [measure(interpolate(run, first, i / 10), qrels).means["nDCG@10"] for i in range(11)]
    assert values[round(best * 10)] == max(values)


@pytest.mark.parametrize("n", [2, 5, 13, 60])
def test_p_values_equal_scipys(n: int) -> None:
    d = np.random.default_rng(n).normal(0.15, 0.3, n).round(1)
    expected = scipy.stats.permutation_test(
        (d, np.zeros(n)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=10_000, rng=1,
    ).pvalue  # fmt: skip
    assert randomisation_p(d) == pytest.approx(expected, abs=1e-9 if n <= 13 else 0.015)


def test_a_single_query_proves_nothing() -> None:
    assert randomisation_p([0.7]) == 1.0
    assert difference([0.7]).low == difference([0.7]).high == 0.7


def test_intervals_equal_scipys() -> None:
    d = np.random.default_rng(0).normal(0.1, 0.3, 80)
    expected = scipy.stats.bootstrap((d,), np.mean, method="percentile", rng=1).confidence_interval
    found = difference(list(d))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)
    assert found.mean == pytest.approx(d.mean())
    assert (found.wins, found.ties, found.losses) == (int((d > 0).sum()), 0, int((d < 0).sum()))
    assert found == difference(list(d))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison() -> None:
    run, qrels = some_data(3, ties=False)
    best = {qid: {d: float(g) for d, g in grades.items()} for qid, grades in qrels.items()}
    found = compare({"BM25": run, "again": run, "best": best}, qrels)
    assert found.baseline == "BM25" and found.queries == 30
    again, better = found.differences["again"]["nDCG@10"], found.differences["best"]["nDCG@10"]
    assert again.same and (again.mean, again.low, again.high, again.p, again.ties) == (0, 0, 0, 1, 30)
    assert not better.same and better.p < 0.001 and 0 < better.low < better.mean < better.high and better.wins == 30
    assert better.mean == pytest.approx(1 - found.systems["BM25"].means["nDCG@10"])
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["systems"]["BM25"]["missing_queries"] == 3 and data["systems"]["BM25"]["difference"] == {}
    assert data["systems"]["best"]["measures"]["nDCG@10"] == pytest.approx(1)
    with pytest.raises(InputError, match="the baseline 'x' is none of the systems BM25"):
        compare({"BM25": run}, qrels, baseline="x")


def test_importing_is_light() -> None:
    code = "import rerankkit.tables, sys; print([m for m in ('torch', 'scipy', 'numpy') if m in sys.modules])"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
