"""The registry: names guarded, parts imported one by one, and `--code`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catalogue
import pytest

import rerankkit
from rerankkit.errors import InputError
from rerankkit.namespaces import RegistryError
from rerankkit.registry import load_code, registry

ROOT = Path(__file__).parents[1]
HALF = "from rerankkit import registry; registry.heads('test.half.v1')(type('Half', (), {}))"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Forgets what a test registered and imported."""
    names, modules, path, code = set(catalogue.REGISTRY), set(sys.modules), list(sys.path), dict(registry._code)
    yield
    for keys in [k for k in catalogue.REGISTRY if k not in names and k[-1].startswith("test.")]:
        del catalogue.REGISTRY[keys]
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]
    sys.path[:], registry._code = path, code


def head() -> str:
    return "head"


def other() -> str:
    return "other"


def test_register_and_look_up() -> None:
    assert registry.heads("test.a.v1")(head) is head
    assert registry.heads("test.b.v1", head) is head
    assert registry.heads.get("test.a.v1") is head and "test.a.v1" in registry.heads
    assert {"test.a.v1", "test.b.v1"} <= set(registry.heads.names())
    assert "test.a.v1" not in registry.losses.names()
    assert registry.heads.find("test.a.v1") == (__file__, head.__code__.co_firstlineno)


def test_rerankkit_registry_is_usable_before_and_after_its_module_is_imported() -> None:
    code = "from rerankkit import registry; import rerankkit.registry; from rerankkit import registry as again; "
    code += "assert again.heads is registry.heads; print(again.heads.kind, again.origin('heads', 'yes_no.v1').package)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["head", "rerankkit"], done.stderr


def test_a_second_registration_is_refused() -> None:
    registry.heads("test.a.v1", head)
    with pytest.raises(RegistryError, match=r"'test.a.v1' is already registered by .*test_registry.head; pick another"):
        registry.heads("test.a.v1", other)
    assert registry.heads.get("test.a.v1") is head
    for factory in (lambda: "x", lambda: "y"):
        if "test.lambda.v1" in registry.heads:
            with pytest.raises(RegistryError, match="already registered"):
                registry.heads("test.lambda.v1", factory)
        registry.heads("test.lambda.v1", registry.heads._local("test.lambda.v1") or factory)


def test_the_same_function_imported_again_is_allowed() -> None:
    registry.heads("test.a.v1", head)
    again = type(head)(head.__code__, head.__globals__, head.__name__)
    again.__qualname__, again.__module__ = head.__qualname__, head.__module__
    assert again is not head and registry.heads("test.a.v1", again) is again
    assert registry.heads.get("test.a.v1") is again


def test_a_built_in_cannot_be_replaced_even_before_it_is_imported() -> None:
    code = (
        "from rerankkit.registry import registry\n"
        "try:\n    @registry.heads('yes_no.v1')\n    def mine(): ...\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("heads 'yes_no.v1' is already registered by rerankkit.heads.yes_no.yes_no"), done


@pytest.mark.parametrize("name", ["", "two words", 'quo"te', "${x}", "a#b", 5, None])
def test_names_that_a_recipe_could_not_write(name: Any) -> None:
    with pytest.raises(RegistryError, match="cannot name a part"):
        registry.heads(name, head)


def test_what_cannot_be_called_cannot_be_registered() -> None:
    with pytest.raises(RegistryError, match="is no function or class"):
        registry.heads("test.a.v1", "head")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "near"),
    [("yes_mo.v1", "yes_no.v1"), ("yes_no.v2", "yes_no.v1"), ("yesno", "yes_no.v1"), ("YES_NO.v1", "")],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.heads.get(name)
    assert str(caught.value).startswith(f"no heads named {name!r}" + (f"; did you mean {near!r}?" if near else " ("))
    assert "yes_no.v1" in str(caught.value)
    with pytest.raises(RegistryError, match="no registry named 'haeds'; did you mean 'heads'"):
        registry.namespace("haeds")


def test_a_look_up_imports_one_file_and_listing_imports_none() -> None:
    code = (
        "import sys\nfrom rerankkit.registry import registry\n"
        "parts = lambda: sorted(m for m in sys.modules if m.startswith('rerankkit.') and m.count('.') == 2)\n"
        "for namespace in registry.namespaces().values(): namespace.names()\n"
        "assert 'yes_no.v1' in registry.heads.names() and not parts(), parts()\n"
        "registry.losses.get('ranknet.v1')\nprint(parts(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "['rerankkit.losses.ranknet'] False", done.stderr


def test_names_that_were_released_stay() -> None:
    """A recipe that worked once works with every later version: names are added to this file and never removed."""
    snapshot = json.loads((Path(__file__).parent / "registry.json").read_text())
    assert set(snapshot) == set(registry.namespaces())
    for namespace, names in snapshot.items():
        assert names and set(names) <= set(registry.namespace(namespace).names())


def test_every_built_in_lies_in_the_file_of_its_name() -> None:
    for namespace in registry.namespaces().values():
        for name in namespace._built_ins():
            assert namespace.find(name).file == str(
                ROOT / "rerankkit" / namespace.name / f"{name.rsplit('.v', 1)[0]}.py"
            )


def test_origins() -> None:
    built_in = registry.origin("heads", "yes_no.v1")
    assert (built_in.kind, built_in.package) == ("package", "rerankkit")
    assert built_in.requirement == f"rerankkit=={rerankkit.__version__}"
    registry.heads("test.a.v1", head)
    assert registry.origin("heads", "test.a.v1").file == __file__
    assert registry.origin("heads", "test.a.v1").requirement == ""
    registry.heads("test.json.v1", json.dumps)
    assert registry.origin("heads", "test.json.v1").kind == "program"
    registry.heads("test.pytest.v1", pytest.fixture)
    assert registry.origin("heads", "test.pytest.v1").requirement == f"pytest=={pytest.__version__}"


def test_code_files(tmp_path: Path) -> None:
    (tmp_path / "my_helper.py").write_text("def scale():\n    return 3\n")
    path = tmp_path / "my_parts.py"
    path.write_text(
        "import my_helper\nfrom rerankkit.registry import registry\n\n"
        "@registry.heads('test.mine.v1')\ndef mine():\n    return my_helper.scale()\n"
    )
    code = load_code(path)
    assert code.names == (("heads", "test.mine.v1"),) and code.path == path
    assert registry.heads.get("test.mine.v1")() == 3
    assert registry.heads.find("test.mine.v1") == (str(path), 4)
    origin = registry.origin("heads", "test.mine.v1")
    assert (origin.kind, origin.file) == ("code", str(path))
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_code(path) is code and registry.code_files == [code]
    assert sys.modules["my_parts"].mine.__module__ == "my_parts" and str(tmp_path) in sys.path
    saved = tmp_path / "saved" / "my_parts.py"
    saved.parent.mkdir()
    saved.write_bytes(path.read_bytes())
    assert load_code(saved) is code  # what a model saved by this program carries
    saved.write_text("changed = True\n")
    with pytest.raises(
        InputError, match=r"a module named 'my_parts' already exists \(.*my_parts.py\); rename the file"
    ):
        load_code(saved)


def test_worker_processes_find_what_a_code_file_defines(tmp_path: Path) -> None:
    (tmp_path / "my_workers.py").write_text("def double(number):\n    return 2 * number\n")
    (tmp_path / "main.py").write_text(
        "import multiprocessing, sys\nfrom rerankkit.registry import load_code\n"
        "if __name__ == '__main__':\n"
        f"    load_code({str(tmp_path / 'my_workers.py')!r})\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(sys.modules['my_workers'].double, [1, 2]))\n"
    )
    run = [sys.executable, str(tmp_path / "main.py")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, env=environment, cwd="/")
    assert done.stdout.strip() == "[2, 4]", done.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("my_a.py", "x = 1\ny = (\n", r"my_a.py:2: SyntaxError: '\(' was never closed"),
        ("my_b.py", f"{HALF}\nimport my_missing_package\n", "my_b.py:2: ModuleNotFoundError: No module named"),
        ("my_c.py", "def f():\n    raise KeyError('k')\n\nf()\n", "my_c.py:2: KeyError: 'k'"),
        ("my_d.py", "import sys\n\nsys.exit(3)\n", "my_d.py:3: SystemExit: 3"),
        ("my_e.py", "from rerankkit import registry\nregistry.heads('yes_no.v1', print)\n",
         "my_e.py:2: RegistryError: heads"),
        ("my_f.txt", "x = 1\n", "my_f.txt is no Python module"),
        ("my-g.py", "x = 1\n", "my-g.py is no Python module"),
        ("json.py", "x = 1\n", "a module named 'json' already exists"),
        ("wave.py", "x = 1\n", r"a module named 'wave' already exists \(.*wave.py\); rename the file"),
        ("sys.py", "x = 1\n", r"a module named 'sys' already exists \(built.in\)"),
        ("my_h.py", None, "cannot read .*my_h.py: No such file"),
    ],
)  # fmt: skip
def test_code_files_that_cannot_be_loaded(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    before, path = dict(sys.modules), list(sys.path)
    with pytest.raises(InputError, match=message):
        load_code(tmp_path / name)
    assert "test.half.v1" not in registry.heads and registry.code_files == []
    assert sys.path == path and sys.modules.get(Path(name).stem) is before.get(Path(name).stem)
