"""A checkpoint is used only if every byte of it is what was written."""

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.checkpoints import SEAL, checkpoints, is_complete, latest, rotate, seal, step
from rerankkit.warnings import collecting

FILES = {"trained.safetensors": b"weights" * 9, "optimizer.pt": b"momenta", "state/rng.pth": b"\0\1\2"}


def write(folder: Path, number: int, sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{number}"
    for name, content in FILES.items():
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(content)
    if sealed:
        seal(checkpoint)
    return checkpoint


def numbers(folder: Path) -> list[int]:
    return [step(path) for path in checkpoints(folder)]


def test_whole_once_sealed(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 3, sealed=False)
    assert not is_complete(checkpoint)
    seal(checkpoint)
    assert is_complete(checkpoint)
    assert set(json.loads((checkpoint / SEAL).read_text())) == set(FILES)
    seal(checkpoint)
    assert is_complete(checkpoint)


@pytest.mark.parametrize("name", [*FILES, SEAL])
@pytest.mark.parametrize("damage", ["deleted", "empty", "truncated", "longer", "flipped"])
def test_any_damage_is_seen(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path, 1) / name
    content = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        path.write_bytes({"empty": b"", "truncated": content[:-1], "longer": content + b"x"}[damage])
    assert not is_complete(tmp_path / "checkpoint-1")


def test_a_flip_anywhere_in_the_seal_never_hides_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, 1) / SEAL
    content = path.read_bytes()
    listed = json.loads(content)
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert not is_complete(tmp_path / "checkpoint-1") or json.loads(path.read_bytes()) == listed


@pytest.mark.parametrize("content", ["[]", "{}", "null", "3", '["trained.safetensors"]', '{"a": 1}', "\xff"])
def test_a_seal_that_says_something_else(tmp_path: Path, content: str) -> None:
    (write(tmp_path, 1) / SEAL).write_text(content, encoding="latin-1")
    assert not is_complete(tmp_path / "checkpoint-1")


def test_the_newest_whole_one_is_found_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (9, 10, 20):
        write(tmp_path, number)
    (tmp_path / "checkpoint-20" / "optimizer.pt").unlink()
    write(tmp_path, 100, sealed=False)
    for name in ("checkpoint-best", "checkpoint-", "model", "checkpoint-7.part"):
        (tmp_path / name).mkdir()
    with caplog.at_level(logging.WARNING, "rerankkit"), collecting():
        assert latest(tmp_path) == tmp_path / "checkpoint-10"
    said = [record.getMessage() for record in caplog.records]
    (sentence,) = said
    assert sentence.startswith("2 checkpoints incomplete or damaged, passed over, such as ")
    assert str(tmp_path / "checkpoint-100") in sentence


def test_none_is_found_where_none_is_whole(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None
    write(tmp_path, 5, sealed=False)
    assert latest(tmp_path) is None


@given(
    present=st.sets(st.integers(1, 12), min_size=1),
    limit=st.none() | st.integers(0, 6),
    data=st.data(),
)
def test_rotation(
    tmp_path_factory: pytest.TempPathFactory, present: set[int], limit: int | None, data: st.DataObject
) -> None:
    """Against a naive reference: delete the oldest one by one while there are more than `limit`."""
    folder = tmp_path_factory.mktemp("rotate")
    for number in present:
        (folder / f"checkpoint-{number}").mkdir()
    newest = data.draw(st.sampled_from(sorted(present)))
    best = data.draw(st.none() | st.sampled_from([n for n in sorted(present) if n <= newest]))
    rotate(folder / f"checkpoint-{newest}", best and folder / f"checkpoint-{best}", limit)
    kept = sorted(n for n in present if n <= newest)
    for number in list(kept):
        if limit and len(kept) > limit and number not in (newest, best):
            kept.remove(number)
    assert numbers(folder) == kept
    os.rmdir(folder / f"checkpoint-{newest}")
