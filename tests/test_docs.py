"""What README.md and CONTRIBUTING.md claim is run: recipes, Python, commands, tables."""

import json
import logging
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import catalogue
import pytest
import tiny
import tiny_bert

from rerankkit import Reranker, __version__, cli, load_code
from rerankkit.embedded import MODELS
from rerankkit.protocols import Group
from rerankkit.recipe import check, load_recipe, parse_overrides, read
from rerankkit.registry import registry

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING]
RECIPE = ROOT / "recipes" / "llm_pointwise.cfg"
PAIRS = {
    "open a file": "the open function returns a file object and reads text from the disk",
    "sort a list by key": "sort list of tuples by key in python",
    "which module parses dates": "a module parses dates and text",
    "where does the cat sit": "a cat sat on the mat while rain fell over quiet hills",
}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def title(self) -> str:
        """The file that its first line names, if any."""
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found[1] if found else ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of a page in one language."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in found if m[1] == language]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Every line of a bash block, continued lines joined, as (place, words)."""
    found = []
    for block in blocks(page, "bash"):
        for number, line in enumerate(block.text.replace("\\\n", " ").splitlines(), start=1):
            if words := shlex.split(line, comments=True):
                found.append((f"{block}+{number}", words))
    return found


def rerankkit_commands() -> list[tuple[str, list[str]]]:
    """The arguments of every `rerankkit …` and `torchrun … -m rerankkit …`."""
    found = [(place, words) for page in PAGES for place, words in commands(page) if "rerankkit" in words]
    return [(place, words[words.index("rerankkit") + 1 :]) for place, words in found]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the README, without its head."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(title: str) -> str:
    """The block that says which file it is."""
    (block,) = [b for page in PAGES for kind in ("python", "ini") for b in blocks(page, kind) if b.title == title]
    return block.text


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' commands find around them, with a tiny model in place of a real one."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("data/beir/qrels", "recipes", "models"):
        (folder / name).mkdir(parents=True)
    queries = [{"_id": f"q{i}", "text": query} for i, query in enumerate(PAIRS)]
    docs = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(PAIRS.values())]
    for name, objects in (("queries", queries), ("corpus", docs)):
        (folder / f"data/beir/{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in objects))
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(len(PAIRS)))
    for split in ("train", "dev", "test"):
        (folder / f"data/beir/qrels/{split}.tsv").write_text(qrels)
    (folder / "queries.jsonl").write_bytes((folder / "data/beir/queries.jsonl").read_bytes())
    (folder / "docs.jsonl").write_bytes((folder / "data/beir/corpus.jsonl").read_bytes())
    (folder / "bm25.trec").write_text("".join(f"q{i} Q0 d{i} 1 2.5 bm25\n" for i in range(len(PAIRS))))
    readers = "".join(
        f'[data.{split}]\n@readers = "beir.v1"\npath = "{folder}/data/beir"\nsplit = "{split}"\n'
        for split in ("train", "dev", "test")
    )
    (folder / "recipes/llm_pointwise.cfg").write_text(
        f'[recipe]\nextends = "{RECIPE}"\n[model]\n[model.backbone]\nname = "{tiny.folder()}"\n'
        f"[model.backbone.lora]\nr = 2\n[data]\n{readers}"
    )
    for title in ("parts.py", "mine.cfg", "abstracts.cfg", "qwen3.cfg", "t2ranking.cfg"):
        (folder / title).write_text(named(title))
    Reranker.from_recipe(folder / "recipes/llm_pointwise.cfg").save_pretrained(folder / "models/llm-pointwise")
    (folder / "colbert.cfg").write_text(tiny_bert.model_sections("colbert"))
    colbert = Reranker.from_recipe(folder / "colbert.cfg", {"model.head.similarity": "sum"})
    colbert.untrained = False
    colbert.save_pretrained(folder / "models/colbert")
    return folder


@pytest.fixture
def here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands in the workspace; whatever a page registers or logs is gone afterwards."""
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(workspace))
    registered, code = dict(catalogue.REGISTRY), dict(registry._code)
    logger = logging.getLogger("rerankkit")
    kept = list(logger.handlers), logger.level, logger.propagate
    yield workspace
    for key in catalogue.REGISTRY.keys() - registered.keys():
        if key[-1].startswith("acme."):
            del catalogue.REGISTRY[key]
    for namespace in registry.namespaces().values():
        for name in [name for name in namespace._loaded if name.startswith("acme.")]:
            del namespace._loaded[name]
    registry._code.clear()
    registry._code.update(code)
    for module in [name for name in sys.modules if name == "parts" or name.startswith("acme_rerank")]:
        del sys.modules[module]
    logger.handlers, logger.level, logger.propagate = kept


def test_every_block_says_what_it_is() -> None:
    untagged = [f"{page.name}: {len(blocks(page, ''))}" for page in PAGES if blocks(page, "")]
    known = {"bash", "python", "ini", "toml", "text"}
    strange = set(re.findall(r"^```(\w+)$", "".join(page.read_text() for page in PAGES), re.MULTILINE)) - known
    assert (untagged, strange) == ([], set())


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page, "ini")], ids=str)
def test_a_recipe_of_a_page_has_no_problems(here: Path, block: Block) -> None:
    load_code("parts.py")
    assert block.title.endswith(".cfg")
    assert check(read(block.title)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(here: Path, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tested = 0
    for block in blocks(page, "python"):
        if block.text.startswith("# open-retrievals:"):
            continue  # names models of the hub; test_open_retrievals.py runs it
        file = here / (block.title or "block.py")
        file.write_text(block.text)
        if block.title:
            continue  # the next block imports it
        for name, function in runpy.run_path(str(file)).items():
            if name.startswith("test_"):
                function()
                tested += 1
    said = capsys.readouterr().out
    if page == README:
        assert "softmax_cross_entropy.v1" in said and "Costs(prompts=" in said
        assert (here / "models/short/backbone/config.json").is_file()
    else:
        assert "acme.hinge.v1" in said and tested == 1


@pytest.mark.parametrize(("place", "words"), rerankkit_commands(), ids=lambda value: str(value)[:60])
def test_a_command_of_a_page(here: Path, place: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs it, with a tiny model in place of a real one; of `train`, the recipe with its overrides is checked."""
    (here / "reranked.trec").write_bytes((here / "bm25.trec").read_bytes())
    real = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    if words[0] in ("check", "train"):
        words = ["check", *without_options(real[1:])]
    monkeypatch.setattr(sys, "argv", ["rerankkit", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
        raise SystemExit(0)
    assert end.value.code in (0, None), place


def without_options(words: list[str]) -> list[str]:
    """The words of `train` that `check` takes too."""
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word == "--output":
            rest.pop(0)
        elif word not in ("--resume", "--overwrite"):
            kept.append(word)
    return kept


def test_the_training_commands_have_options_that_exist() -> None:
    known = cli.typer.main.get_command(cli.app).commands["train"].params
    options = {option for parameter in known for option in parameter.opts}
    lines = [words for _, words in rerankkit_commands() if words[0] == "train"]
    used = {word for words in lines for word in words if re.fullmatch(r"--[a-z-]+", word)}
    assert len(lines) >= 4 and used and used <= options


def test_the_overrides_for_a_model_of_ones_own_are_its_recipe(tmp_path: Path) -> None:
    (words,) = [words for _, words in rerankkit_commands() if "Qwen/Qwen3-0.6B" in words]
    recipe = load_recipe(RECIPE, parse_overrides(words[2:]), "train")
    (tmp_path / "qwen3.cfg").write_text(named("qwen3.cfg"))
    own = read(tmp_path / "qwen3.cfg").values
    assert recipe.get("model.backbone")["name"] == own["model"]["backbone"]["name"] == "Qwen/Qwen3-0.6B"
    assert recipe.get("model.formatter") == own["model"]["formatter"]
    assert recipe.get("model.head") == own["model"]["head"]
    assert recipe.get("model.formatter")["answer_prefix"].count("\n") == 4
    assert recipe.get("data.train") == {"@readers": "jsonl.v1", "path": "train.jsonl"}


def test_the_files_of_json_lines_are_read(tmp_path: Path) -> None:
    shown = re.findall(r"^\| [^|]+ \| `(\{.*?\})` \|", README.read_text(), flags=re.MULTILINE)
    found = []
    for number, line in enumerate(shown):
        (tmp_path / f"{number}.jsonl").write_text(line + "\n")
        found += list(registry.readers.get("jsonl.v1")(str(tmp_path / f"{number}.jsonl")))
    assert [group.labels for group in found] == [[1.0, 0.0, 0.0], [2.0, 0.0], [1.0]]


def test_the_table_of_parts_is_the_registry() -> None:
    shown: dict[str, list[str]] = {}
    for name, _, file in rows("Parts"):
        if name.startswith("`@"):
            namespace = name.strip("`@")
            shown[namespace] = []
            continue
        shown[namespace].append(name.strip("`"))
        (path,) = re.findall(r"\]\((.*)\)", file)
        assert str(ROOT / path) == registry.namespace(namespace).find(name.strip("`")).file
    ours = {
        namespace: [name for name in known.names() if registry.origin(namespace, name).package == "rerankkit"]
        for namespace, known in registry.namespaces().items()
    }
    assert shown == ours


def test_the_recipe_is_explained_key_by_key() -> None:
    explained: set[tuple[str, str]] = set()
    sections: list[str] = []
    for section, keys, _ in rows("The recipe, line by line"):
        sections = re.findall(r"\[(.*?)\]", section) or sections
        explained |= {(name, key) for name in sections for key in re.findall(r"`(\w+)`", keys) or [""]}
    text = README.read_text().split("\n## The recipe, line by line\n")[1].split("\n## ")[0]
    explained |= {("training", key) for key in re.findall(r"`(\w+)`", text.split("\nIn `[training]`")[1])}
    written = {
        (".".join(path), key)
        for recipe in (RECIPE, RECIPE.with_name("base.cfg"))
        for path, entries in read(recipe).sections.entries.items()
        for key in ([key for key in entries if not key.startswith("@")] or [""] * ("@" in "".join(entries)))
    }
    assert written - explained == set()
    assert {(section, key) for section, key in explained - written if section != "training"} <= {
        ("recipe", "extends"),  # taken out when it is read
    }


def test_the_table_of_embedded_models_is_the_code() -> None:
    shown = {name.strip("`"): package.strip("`") for name, _, package in rows("Embedded models")}
    assert shown == {f"embedded:{name}": f"{model.package}=={model.version}" for name, model in MODELS.items()}


def test_a_saved_model_holds_what_the_page_shows(workspace: Path) -> None:
    (layout,) = [block.text for block in blocks(README, "text")]
    shown = re.findall(r"^  ([\w.]+)/?\s", layout, flags=re.MULTILINE)
    saved = {path.name for path in (workspace / "models/llm-pointwise").iterdir()}
    assert saved == {"recipe.cfg", "origin.json", "backbone", "README.md"}
    assert saved <= set(shown) and set(shown) - saved == {"adapter", "head.safetensors", "code"}


def test_wrong_input_has_the_exit_code_of_the_page(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [row[0] for row in rows("The command line")]
    assert codes == ["0", "1", "2", "130"]
    for words, code in ((["check", "nowhere.cfg"], 2), (["list"], 0), (["rank", "models/llm-pointwise"], 2)):
        monkeypatch.setattr(sys, "argv", ["rerankkit", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
            raise SystemExit(0)
        assert (end.value.code or 0) == code, words


def test_links_and_make_targets_exist() -> None:
    links = [
        (page.name, link)
        for page in PAGES
        for link in re.findall(r"\]\((?!https://)(.*?)\)", page.read_text())
        if not (ROOT / link).exists()
    ]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    made = {words[1] for page in PAGES for _, words in commands(page) if words[0] == "make"}
    assert links == [] and {"demo", "test", "check"} <= made <= targets


def test_the_layout_names_files_that_exist() -> None:
    layout = next(block.text for block in blocks(CONTRIBUTING, "text") if "protocols.py" in block.text)
    missing = [file for file in re.findall(r"\w+\.py", layout) if not (ROOT / "rerankkit" / file).is_file()]
    assert missing == [] and layout.count(".py") > 8


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == __version__


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CONTRIBUTING's package, installed by pip into a folder."""
    project = tmp_path_factory.mktemp("project")
    (pyproject,) = blocks(CONTRIBUTING, "toml")
    (project / "acme_rerank").mkdir()
    (project / "pyproject.toml").write_text(pyproject.text)
    (project / "acme_rerank" / "__init__.py").write_text("")
    (project / "acme_rerank" / "parts.py").write_text(named("parts.py"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", project / "site", project], check=True, capture_output=True)
    return project / "site"


@pytest.mark.parametrize("door", ["decorator", "code", "entry point"])
def test_the_parts_of_a_page_come_through_a_door(
    here: Path, tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    assert "acme.linear.v1" not in registry.heads
    if door == "decorator":
        __import__("parts")
    elif door == "code":
        load_code("parts.py")
    else:
        monkeypatch.syspath_prepend(str(request.getfixturevalue("site")))
    recipe = load_recipe("mine.cfg", {"model.backbone.name": str(tiny.folder())}, "train")
    reranker = Reranker.from_recipe(recipe)
    groups = [Group("open a file", list(PAIRS.values()))]
    before = [[(found.index, found.score) for found in ranked] for ranked in reranker.rank_groups(groups)]
    reranker.save_pretrained(tmp_path / "saved")
    after = Reranker.from_pretrained(tmp_path / "saved", trust_code=door == "code").rank_groups(groups)
    assert len({score for _, score in before[0]}) == len(PAIRS)
    assert [[index for index, _ in ranked] for ranked in before] == [[f.index for f in ranked] for ranked in after]
    assert [f.score for f in after[0]] == pytest.approx([score for _, score in before[0]], abs=1e-4)
    parts = json.loads((tmp_path / "saved/origin.json").read_text())["parts"]
    came_from = {"decorator": "program parts.py", "code": "code parts.py", "entry point": "acme-rerank==1.0.0"}
    assert parts["heads:acme.linear.v1"] == came_from[door]
    assert (tmp_path / "saved/head.safetensors").is_file()
    assert (tmp_path / "saved/code/parts.py").is_file() == (door == "code")
