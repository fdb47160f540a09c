"""A folder is made once, whole, by one process; whatever goes wrong leaves nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from rerankkit import folder_cache
from rerankkit.errors import RunError
from rerankkit.folder_cache import MANIFEST, Product, cache_folder, defect, obtain, place_of, sha256_of

ROOT = Path(__file__).parent.parent
TEXT = b"weights " * 1000


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "source.bin"
    path.write_bytes(TEXT)
    return path


def copying(source: Path, size: int = 100) -> tuple[Product, list[Path]]:
    """A product that copies its source, and the folders that it was made in so far."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "copy.bin").write_bytes(source.read_bytes())

    digest = hashlib.sha256(TEXT).hexdigest()
    return Product("thing-1", source, digest, size, make, "making the thing", "fetch it again"), made


def left_over() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "models").iterdir() if not path.name.endswith(".lock"))


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RERANKKIT_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "rerankkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rerankkit"
    monkeypatch.setenv("RERANKKIT_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_a_folder_is_made_once_with_its_manifest(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    product, made = copying(source)
    folder = obtain(product)
    assert obtain(product) == obtain(product, verify=True) == folder == place_of("thing-1")
    assert len(made) == 1
    assert (folder / "sub" / "copy.bin").read_bytes() == TEXT
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert files == {"sub/copy.bin": {"size": len(TEXT), "sha256": sha256_of(source)}}
    assert capsys.readouterr().err == "making the thing (once)\n"
    assert left_over() == ["thing-1"]


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest gone", "manifest cut", "manifest alien"])
def test_a_damaged_folder_is_named_and_made_anew(source: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    product, made = copying(source)
    folder = obtain(product)
    copy, manifest = folder / "sub" / "copy.bin", folder / MANIFEST
    if damage == "cut":
        copy.write_bytes(TEXT[:-1])
    elif damage == "gone":
        copy.unlink()
    elif damage == "manifest gone":
        manifest.unlink()
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:-5])
    else:
        manifest.write_text('{"files": ["copy.bin"]}')
    capsys.readouterr()
    assert obtain(product) == folder
    said = capsys.readouterr().err
    assert said.startswith(f"{folder}: ") and "making it anew" in said
    assert len(made) == 2 and defect(folder, verify=True) is None
    assert left_over() == ["thing-1"]


def test_a_flipped_byte_is_found_when_asked_for(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    product, made = copying(source)
    copy = obtain(product) / "sub" / "copy.bin"
    copy.write_bytes(b"W" + TEXT[1:])
    obtain(product)
    assert len(made) == 1
    obtain(product, verify=True)
    assert len(made) == 2 and copy.read_bytes() == TEXT
    assert "its sha256 differs" in capsys.readouterr().err


def test_the_source_is_hashed_again_only_when_touched(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product, made = copying(source)
    obtain(product)
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr(folder_cache, "sha256_of", counting)
    obtain(product)
    assert hashed == []
    os.utime(source, (1, 1))
    obtain(product)
    obtain(product)
    assert hashed == [source] and len(made) == 1
    source.write_bytes(TEXT + b"more")
    with pytest.raises(
        RunError, match=f"{source} is corrupt: expected sha256 {product.sha256}, found .*; fetch it again"
    ):
        obtain(product)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RunError("no"), OSError(errno.EIO, "broken disk")])
def test_a_failed_making_leaves_nothing(source: Path, failure: BaseException) -> None:
    product, _ = copying(source)

    def make(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise failure

    with pytest.raises((KeyboardInterrupt, RunError)):
        obtain(Product(product.key, source, product.sha256, 1, make, product.doing, product.remedy))
    assert left_over() == []
    assert obtain(product).is_dir()


def disk_full(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def disk_full_for_safetensors(folder: Path) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("make", [disk_full, disk_full_for_safetensors])
def test_a_full_disk_is_named_with_what_is_needed(source: Path, make: Callable[[Path], None]) -> None:
    product, _ = copying(source, size=12_345)
    with pytest.raises(RunError) as caught:
        obtain(Product(product.key, source, product.sha256, product.size, make, product.doing, product.remedy))
    for part in (str(cache_folder()), "12,345 bytes", "RERANKKIT_CACHE"):
        assert part in str(caught.value)
    assert left_over() == []


def test_too_little_space_is_seen_before_the_work(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product, made = copying(source, size=1000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2000, 1001, 999))
    with pytest.raises(RunError, match="needs about 1,000 bytes .999 bytes are free."):
        obtain(product)
    assert made == []


def test_a_cache_that_cannot_be_written_is_named(source: Path) -> None:
    product, _ = copying(source)
    cache_folder().write_text("a file where the folder should be")
    with pytest.raises(RunError, match=f"cannot write to the cache folder {cache_folder()}: .*RERANKKIT_CACHE"):
        obtain(product)


# A process that makes a product slowly and says what it does.
SLOW = """
import hashlib, sys, time
from pathlib import Path
from rerankkit.folder_cache import Product, obtain
source = Path(sys.argv[1])
def make(folder):
    (folder / "half").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "copy.bin").write_bytes(source.read_bytes())
digest = hashlib.sha256(source.read_bytes()).hexdigest()
print(obtain(Product("thing-1", source, digest, 1, make, "making the thing", "fetch it again")))
"""


def start(source: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(source), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_it_once(source: Path) -> None:
    first = start(source, 1.0)
    assert first.stdout is not None and first.stdout.readline() == "begun\n"
    second = start(source, 0.0)
    out, err = second.communicate(timeout=60)
    assert out == f"{place_of('thing-1')}\n"
    assert err == "another process is making the thing; waiting for it\n"
    assert first.communicate(timeout=60)[0] == out
    assert left_over() == ["thing-1"] and defect(place_of("thing-1"), verify=True) is None


def test_a_killed_making_is_swept_away_by_the_next(source: Path) -> None:
    killed = start(source, 60.0)
    assert killed.stdout is not None and killed.stdout.readline() == "begun\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert len(left_over()) == 1 and left_over()[0].startswith(".thing-1.tmp-")
    began = time.monotonic()
    out, err = start(source, 0.0).communicate(timeout=60)
    assert out == f"begun\n{place_of('thing-1')}\n" and "waiting" not in err
    assert time.monotonic() - began < 30
    assert left_over() == ["thing-1"]
