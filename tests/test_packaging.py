"""What a user installs: the wheel's contents, the pins against the ranges, the commands of the Makefile."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rerankkit import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built with the installed hatchling and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_two_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert top_level == {"rerankkit", "rerankkit_kernels", f"rerankkit-{__version__}.dist-info"}


def test_the_wheel_holds_every_module_and_recipe(wheel: zipfile.ZipFile) -> None:
    expected = {
        file.relative_to(base).as_posix()
        for base, package in ((ROOT, "rerankkit"), (ROOT / "kernels", "rerankkit_kernels"))
        for file in (base / package).rglob("*.py")
    }
    recipes = {f"rerankkit/recipes/{file.relative_to(ROOT / 'recipes')}" for file in ROOT.glob("recipes/**/*.cfg")}
    assert "rerankkit/protocols.py" in expected
    assert recipes
    assert expected | recipes | {"rerankkit/py.typed", "rerankkit_kernels/py.typed"} <= set(wheel.namelist())


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"rerankkit-{__version__}.dist-info"
    metadata = HeaderParser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"embedded", "quantized", "triton", "dev", "bench"}
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    assert b"rerankkit = rerankkit.cli:main" in wheel.read(f"{info}/entry_points.txt")


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    extras = PROJECT["optional-dependencies"]
    required = [Requirement(text) for text in PROJECT["dependencies"] + extras["embedded"] + extras["dev"]]
    outside = [
        f"{requirement} but {pinned.get(canonicalize_name(requirement.name), 'no pin')}"
        for requirement in required
        if requirement.name != PROJECT["name"]
        and pinned.get(canonicalize_name(requirement.name), "") not in requirement.specifier
    ]
    assert outside == []


def test_the_pins_name_no_gpu_package_and_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert [line for line in pins if line.startswith(("nvidia", "cuda"))] == []


def test_make_alone_lists_every_command() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^make (\w+)  +\S", listed, flags=re.MULTILINE) == phony[1].split()


def test_a_run_says_what_it_left_out(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_quick(): pass\n"
        "@pytest.mark.slow\ndef test_long(): pass\n"
        "@pytest.mark.gpu\ndef test_device(): pass\n"
    )
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    run = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    said = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "1 passed, 2 deselected" in said
    assert "left out: 1 marked 'slow' (run with: make slow)" in said
    assert "left out: 1 marked 'gpu' (run with: make gpu, on a machine with a CUDA device)" in said
