"""What we override of transformers' Trainer is still there, with the parameters that it counts on."""

from __future__ import annotations

import inspect
import re

import pytest
import transformers

from rerankkit.training.trainer import GroupTrainer

OVERRIDDEN = {
    "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
    "evaluate": ["eval_dataset", "ignore_keys", "metric_key_prefix"],
    "get_batch_samples": ["epoch_iterator", "num_batches", "device"],
    "_get_train_sampler": ["train_dataset"],
    "_load_best_model": [],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_load_rng_state": ["checkpoint"],
    "_run_epoch": None,  # ours hands on whatever it is given
    "_save": ["output_dir", "state_dict"],
    "_save_checkpoint": ["model", "trial"],
}
"""Each overridden method with its parameters after self."""


def overridden() -> set[str]:
    own = {name for name, value in vars(GroupTrainer).items() if inspect.isfunction(value) and name != "__init__"}
    return {name for name in own if name in dir(transformers.Trainer)}


def test_the_table_names_every_method_that_is_overridden() -> None:
    assert overridden() == OVERRIDDEN.keys()


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_transformers_has_the_method_with_these_parameters(name: str) -> None:
    theirs = list(inspect.signature(getattr(transformers.Trainer, name)).parameters)[1:]
    expected = OVERRIDDEN[name]
    if expected is not None:
        assert theirs == expected
        assert list(inspect.signature(getattr(GroupTrainer, name)).parameters)[1:] == expected


def test_the_training_loop_calls_what_is_overridden() -> None:
    """A method that the loop no longer calls would be overridden in vain."""
    source = inspect.getsource(transformers.Trainer)
    for name in OVERRIDDEN:
        assert re.search(rf"self\.{name}\b", source), name
