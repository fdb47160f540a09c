"""The doors for third parties: packages with entry points, and a file of code, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = '''
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rerankkit.protocols import Ask, Backbone, Batch, Piece, Prompt
from rerankkit.registry import registry


@registry.heads("{prefix}.cosine.v1")
@dataclass
class Cosine:
    """A head of a third party."""

    scale: float = 1.0
    module: Any = None

    def bind(self, backbone: Backbone) -> None:
        pass

    def score(self, hidden: Any, batch: Batch) -> Any:
        return hidden * self.scale


@registry.losses("{prefix}.hinge.v1")
def hinge(margin: float = 1.0) -> "Hinge":
    """A loss of a third party."""
    return Hinge(margin)


class Hinge:
    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, scores: Any, labels: Any, mask: Any) -> Any:
        return self.margin


@registry.formatters("{prefix}.plain.v1")
@dataclass
class Plain:
    """A formatter of a third party."""

    template: str = "{{query}}"

    @staticmethod
    def check(template: str) -> Iterable[tuple[str, str]]:
        if "{{query}}" not in template:
            yield "template", "must contain {{query}}"

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        return Prompt((Piece(self.template, "fixed"),))
'''
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "acme-rerank"
version = "1.2.0"

[project.entry-points.rerankkit_heads]
"acme.cosine.v1" = "acme_rerank.parts:Cosine"
"acme.module.v1" = "acme_rerank.silent"
"acme.number.v1" = "acme_rerank.silent:NUMBER"
"yes_no.v1" = "acme_rerank.parts:Cosine"

[project.entry-points.rerankkit_losses]
"acme.hinge.v1" = "acme_rerank.parts"

[project.entry-points.rerankkit_formatters]
"acme.plain.v1" = "acme_rerank.parts:Plain"
"""
BROKEN = (
    PROJECT.partition("[project.entry-points")[0].replace("acme-rerank", "broken-rerank")
    + """
[project.entry-points.rerankkit_heads]
"broken.head.v1" = "broken_rerank:head"
"broken.exit.v1" = "broken_rerank.leaves:head"
"broken.steals.v1" = "broken_rerank.steals:head"
"acme.cosine.v2" = "broken_rerank:head"
"""
)
RECIPE = """
[model]
[model.formatter]
@formatters = "{prefix}.plain.v1"
template = "Q {{query}}"
[model.collator]
@collators = "sequence.v1"
[model.backbone]
@backbones = "hf_causal.v1"
name = "some/model"
[model.head]
@heads = "{prefix}.cosine.v1"
scale = 2
[model.strategy]
@strategies = "pointwise.v1"
[loss]
@losses = "{prefix}.hinge.v1"
margin = 3.0
"""
SHOW = (
    "head, loss, formatter = (build(recipe, section) for section in ('model.head', 'loss', 'model.formatter'))\n"
    "print(head.scale, loss.margin, formatter.template)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a good and a broken plug-in are installed by pip, without an index."""
    folder = tmp_path_factory.mktemp("plugins")
    files = {
        "acme/pyproject.toml": PROJECT,
        "acme/acme_rerank/__init__.py": "",
        "acme/acme_rerank/parts.py": PARTS.format(prefix="acme"),
        "acme/acme_rerank/silent.py": "NUMBER = 3\n",
        "broken/pyproject.toml": BROKEN,
        "broken/broken_rerank/__init__.py": "",
        "broken/broken_rerank/leaves.py": "raise SystemExit(3)\n",
        "broken/broken_rerank/steals.py": (
            "from rerankkit.registry import registry\n\n\n@registry.heads('yes_no.v1')\ndef head(): ...\n"
        ),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, folder / "acme", folder / "broken"], check=True, capture_output=True)
    (site / "broken_rerank/__init__.py").write_text("import a_package_that_nobody_has\n")
    return site


def run(code: str, *path: Path, rc: int = 0) -> str:
    """What a fresh interpreter prints, with folders on its path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT, ROOT / "kernels"]))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == rc, done.stderr
    return done.stdout.strip()


def test_an_installed_plugin_is_listed_and_not_imported(site: Path) -> None:
    code = (
        "import sys\nfrom rerankkit.registry import registry\nprint([n for n in registry.heads.names() if '.v' in n])\n"
        "try: registry.heads.get('acme.cosin.v1')\nexcept ValueError as error: print(error)\n"
        "print([m for m in sys.modules if m.startswith(('acme', 'broken'))])"
    )
    listed, unknown, imported = run(code, site).splitlines()
    assert "'acme.cosine.v1'" in listed and "'broken.head.v1'" in listed
    assert unknown.startswith("no heads named 'acme.cosin.v1'; did you mean 'acme.cosine.v1'?")
    assert imported == "[]"
    assert "acme.cosine.v1" not in run(code.replace("get('acme.cosin.v1')", "get('yes_no.v1')"))


def test_a_plugins_parts_are_checked_filled_and_built(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.cfg").write_text(RECIPE.format(prefix="acme"))
    code = (
        "from rerankkit.recipe import build, check, fill, load_recipe, read\nfrom rerankkit.registry import registry\n"
        f"path = {str(tmp_path / 'mine.cfg')!r}\nrecipe = load_recipe(path)\n"
        f"{SHOW}\n"
        "assert '@heads = \"acme.cosine.v1\"\\nscale = 2\\nmodule = null\\n' in fill(recipe)\n"
        "wrong = {'model.formatter.template': 'x', 'model.head.scal': 1, 'loss.margin': 'wide'}\n"
        "for problem in check(read(path, wrong), 'rank'): print(problem)\n"
        "parts = [('heads', 'acme.cosine.v1'), ('losses', 'acme.hinge.v1')]\n"
        "print(*[registry.origin(*part).requirement for part in parts])\n"
        "print(registry.heads.find('acme.cosine.v1').file, registry.heads.get('yes_no.v1').__module__)"
    )
    built, *problems, origins, found = run(code, site).splitlines()
    assert built == "2.0 3.0 Q {query}"
    assert problems == [
        "command line: [loss] margin: expected a float, got the text 'wide'",
        "command line: [model.formatter] template: must contain {query}",
        "command line: [model.head] acme.cosine.v1 has no argument 'scal'; did you mean 'scale'?",
    ]
    assert origins == "acme-rerank==1.2.0 acme-rerank==1.2.0"
    assert found == f"{site / 'acme_rerank' / 'parts.py'} rerankkit.heads.yes_no"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.head.v1", "comes from the package broken-rerank 1.2.0 (broken_rerank:head), which fails to import: "
         "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("broken.steals.v1", "fails to import: ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("acme.module.v1", "(acme_rerank.silent), which is no function or class and registers no 'acme.module.v1'"),
        ("acme.number.v1", "(acme_rerank.silent:NUMBER), which is no function or class and registers no"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_and_harms_nobody(site: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "mine.cfg").write_text(RECIPE.format(prefix="acme").replace("acme.cosine.v1", name))
    code = (
        "from rerankkit.recipe import check, read\nfrom rerankkit.registry import registry\n"
        f"problems = check(read({str(tmp_path / 'mine.cfg')!r}), 'rank')\n"
        "print(*[f'{p.place.line} [{p.section}] {p.message}' for p in problems], sep='\\n')\n"
        "assert registry.heads.get('yes_no.v1') and registry.heads.get('acme.cosine.v1')"
    )
    (problem,) = run(code, site).splitlines()
    assert problem.startswith(f"12 [model.head] heads {name!r} comes from the package ") and message in problem


def test_a_plugin_that_leaves_or_steals(site: Path, tmp_path: Path) -> None:
    init = site / "broken_rerank/__init__.py"
    kept = init.read_text()
    init.write_text("")
    try:
        code = (
            "from rerankkit.registry import registry\nfor name in ('broken.exit.v1', 'broken.steals.v1'):\n"
            "    try: registry.heads.get(name)\n    except ValueError as error: print(error)\n"
            "print(registry.heads.get('yes_no.v1').__module__)"
        )
        leaves, steals, built_in = run(code, site).splitlines()
    finally:
        init.write_text(kept)
    assert leaves.endswith("fails to import: SystemExit: 3")
    assert "RegistryError: heads 'yes_no.v1' is already registered by rerankkit.heads.yes_no.yes_no" in steals
    assert built_in == "rerankkit.heads.yes_no"


def test_a_local_part_wins_over_a_plugin(site: Path) -> None:
    code = (
        "from rerankkit.registry import registry\n\n@registry.heads('acme.cosine.v1')\ndef mine(): ...\n\n"
        "print(registry.heads.get('acme.cosine.v1').__name__, registry.origin('heads', 'acme.cosine.v1').kind)"
    )
    assert run(code, site) == "mine program"


def test_two_packages_of_one_name(site: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin_rerank-0.1.dist-info"
    twin.mkdir()
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: twin-rerank\nVersion: 0.1\n")
    (twin / "entry_points.txt").write_text("[rerankkit_heads]\nacme.cosine.v1 = twin:head\n")
    code = (
        "from rerankkit.registry import registry\n"
        "try: registry.heads.get('acme.cosine.v1')\nexcept ValueError as error: print(error)"
    )
    said = run(code, site, tmp_path)
    assert "acme-rerank 1.2.0" in said and "twin-rerank 0.1" in said and "uninstall one" in said


def test_a_file_of_code_serves_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text(PARTS.format(prefix="mine"))
    (tmp_path / "mine.cfg").write_text(RECIPE.format(prefix="mine"))
    code = (
        "from rerankkit import load_code, load_recipe, registry\nfrom rerankkit.recipe import build\n"
        f"load_code({str(tmp_path / 'my_parts.py')!r})\nrecipe = load_recipe({str(tmp_path / 'mine.cfg')!r})\n"
        f"{SHOW}\n"
        "print(registry.origin('losses', 'mine.hinge.v1').kind)"
    )
    assert run(code).splitlines() == ["2.0 3.0 Q {query}", "code"]
