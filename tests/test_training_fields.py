"""What is read off the source of transformers is what its class says."""

import dataclasses
import typing

from transformers import TrainingArguments

from rerankkit.training_fields import training_fields
from rerankkit.typecheck import members, misfits


def test_the_fields_are_those_of_the_class() -> None:
    assert list(training_fields()) == [field.name for field in dataclasses.fields(TrainingArguments)] + ["score_chunk"]


def test_the_types_are_those_of_the_class() -> None:
    plain = {int, float, bool, str, list, dict, type(None)}
    compared = 0
    for name, hint in typing.get_type_hints(TrainingArguments).items():
        theirs = {typing.get_origin(kind) or kind for kind in members(hint)}
        ours = {typing.get_origin(kind) or kind for kind in members(training_fields()[name])}
        if theirs <= plain:
            assert ours == theirs, name
            compared += 1
    assert compared > 100


def test_every_default_fits_its_field() -> None:
    for field in dataclasses.fields(TrainingArguments):
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        value = getattr(default, "value", default)
        assert value is None or misfits(value, training_fields()[field.name]) == [], field.name


def test_an_enumeration_is_its_values() -> None:
    assert misfits("cosine", training_fields()["lr_scheduler_type"]) == []
    assert misfits("cosin", training_fields()["lr_scheduler_type"]) != []
    assert misfits("best", training_fields()["save_strategy"]) == []
    assert misfits("best", training_fields()["eval_strategy"]) != []
    assert misfits("adamw_torch", training_fields()["optim"]) == []
    assert misfits("adam", training_fields()["optim"]) != []
    assert misfits("underflow_overflow", training_fields()["debug"]) == []
