"""Parts for one document a prompt beside parts for several: refused before anything is built, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_rankers
import tiny_t5

from rerankkit import engine, fitting
from rerankkit.errors import InputError
from rerankkit.formatters.pointwise import Pointwise
from rerankkit.heads.yes_no import yes_no
from rerankkit.protocols import Ask
from rerankkit.recipe import check, read
from rerankkit.registry import registry
from rerankkit.settings import Engine

PARTS = {"formatter": registry.formatters, "head": registry.heads, "strategy": registry.strategies}
SEVERAL = [name for name in registry.strategies.names() if name != "pointwise.v1"]


def problems(file: Path, **names: str) -> list[tuple[str, str]]:
    keys = {"formatter": "@formatters", "head": "@heads", "strategy": "@strategies"}
    recipe = read(file, {f"model.{part}": {keys[part]: name} for part, name in names.items()})
    return [(problem.section, problem.message) for problem in check(recipe, "rank")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.recipe(tmp_path / "tiny.cfg")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_ours_says_how_many_documents_it_is_for(part: str) -> None:
    ours = [factory for factory in PARTS[part].get_all().values() if factory.__module__.startswith("rerankkit.")]
    assert {factory.at_once for factory in ours} == {"one", "several"}


@pytest.mark.parametrize("strategy", SEVERAL)
@pytest.mark.parametrize("head", ["yes_no.v1", "linear.v1", "logit.v1", "maxsim.v1", "query_likelihood.v1"])
def test_a_head_for_one_document_goes_with_no_strategy_for_several(file: Path, head: str, strategy: str) -> None:
    ((section, message),) = problems(file, formatter="documents.v1", head=head, strategy=strategy)
    assert section == "model.head"
    assert message.startswith(f"{head} scores one document at a time, and {strategy} asks about several at once; use ")
    assert "choice.v1" in message and "pointwise.v1" in message


@pytest.mark.parametrize("formatter", ["pointwise.v1", "pair.v1", "query_generation.v1"])
def test_a_formatter_for_one_document_goes_with_no_strategy_for_several(file: Path, formatter: str) -> None:
    found = problems(file, formatter=formatter, head="choice.v1", strategy="setwise_heapsort.v1")
    ((section, message),) = found
    assert section == "model.formatter"
    assert message.startswith(f"{formatter} shows one document at a time, and setwise_heapsort.v1 asks about several")
    assert "documents.v1" in message


@pytest.mark.parametrize("head", ["choice.v1", "generated_order.v1"])
def test_a_head_that_reads_names_needs_a_formatter_that_gives_some(file: Path, head: str) -> None:
    ((section, message),) = problems(file, head=head)
    assert section == "model.head"
    assert message.startswith(f"{head} tells the documents of a prompt apart by their names, and pointwise.v1 gives")
    assert "yes_no.v1" in message and "documents.v1" in message


def test_what_goes_together_is_left_alone(file: Path) -> None:
    assert problems(file) == []
    assert problems(file, formatter="documents.v1") == []  # a template of one document
    assert problems(file, formatter="documents.v1", head="choice.v1", strategy="all_pairs.v1") == []


def test_parts_that_say_nothing_may_go_with_anything() -> None:
    named: dict[str, tuple[str, Any]] = {"strategy": ("x", object()), "head": ("yes_no.v1", yes_no)}
    assert list(fitting.misfits(named)) == []
    assert list(fitting.misfits({"strategy": ("x", None), "head": ("y", None), "formatter": ("z", Pointwise)})) == []


def test_a_misfit_hides_no_other_problem(file: Path) -> None:
    given = {"model.head": {"@heads": "choice.v1"}, "model.formatter.system": "s", "model.strategy.@strategies": "x.v1"}
    sections = [problem.section for problem in check(read(file, given), "rank")]
    assert sorted(sections) == ["model.formatter", "model.strategy"]  # of faulty parts it is not said
    assert [section for section, _ in problems(file, head="choice.v1", strategy="x.v1")] == [
        "model.head",
        "model.strategy",
    ]


def test_parts_put_together_in_python_are_refused_by_their_names() -> None:
    of = tiny_rankers.parts(yes_no())
    asks = [Ask(tiny.group(1, 5), (0, 1, 2))]
    with pytest.raises(InputError, match="1 scores to a prompt of 3 documents: yes_no.v1 does not go with .* Listed"):
        engine.Scoring(of, Engine(), engine.Bill.blank(1)).score(asks, [0])


def test_t5_is_no_causal_language_model() -> None:
    of = registry.backbones.get("hf_causal.v1")
    for build in (of, lambda name: of.without_weights(name, None, True)):
        with pytest.raises(InputError, match="is a model of the kind 't5', .* hf_encoder_decoder.v1 for T5's kin"):
            build(str(tiny_t5.folder()))


def test_the_name_of_a_part_is_that_of_its_recipe() -> None:
    assert registry.name_of(yes_no()) == "yes_no.v1" and registry.name_of(Pointwise()) == "pointwise.v1"
    assert registry.name_of(tiny.backbone()) == "hf_causal.v1" and registry.name_of(3) == "int"
