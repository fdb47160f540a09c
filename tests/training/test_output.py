"""Where a training writes: through a link to what it leads to, and never over a pipe or a device."""

import os
import stat
from pathlib import Path

import pytest
import tiny_training as run

from rerankkit.errors import InputError
from rerankkit.training import train


@pytest.mark.regression
def test_a_pipe_is_never_moved_away(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a pipe or a device, and a model is a folder"):
        train(run.recipe(tmp_path / "recipe"), tmp_path / "pipe", overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert not (tmp_path / "pipe.training").exists()


@pytest.mark.regression
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "disk" / "model" / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    recipe = run.recipe(tmp_path / "recipe", {"max_steps": 1, "warmup_steps": 0})
    train(recipe, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "model" / "recipe.cfg").is_file() and not (tmp_path / "disk" / "model" / "old").exists()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["model"]
