"""What this installation consists of and what is wrong with it, on one screen; reads, and changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rerankkit import __version__
from rerankkit.embedded import MODELS, folder_of
from rerankkit.errors import InputError
from rerankkit.folder_cache import cache_folder, defect, size_of
from rerankkit.problems import did_you_mean
from rerankkit.registry import registry

PACKAGES = ("transformers", "peft", "accelerate", "datasets", "bm25s", "ir-measures", "triton")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
GROUP = "rerankkit_"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Args:
        problem: Whether something should be done about it.
        remedy: What to do.
    """

    name: str
    value: str
    problem: bool = False
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Findings on one subject."""

    title: str
    findings: list[Finding]


def report() -> list[Section]:
    """Look at everything."""
    looks: dict[str, Callable[[], list[Finding]]] = {
        "versions": _versions,
        "device": _device,
        "kernels": _kernels,
        "embedded models": lambda: [_embedded(name) for name in MODELS],
        "folders and hub": lambda: [_cache(), _hub()],
        "extras": _extras,
        "plug-ins": _plugins,
    }
    return [Section(title, _survive(look)) for title, look in looks.items()]


def _survive(look: Callable[[], list[Finding]]) -> list[Finding]:
    """A broken torch, say, is why people ask: it must not hide the rest."""
    try:
        return look()
    except Exception as error:
        return [Finding("failed", _one_line(error), True, "repair or install again the package that this names")]


def problems(sections: list[Section]) -> list[Finding]:
    """The findings that something should be done about."""
    return [finding for section in sections for finding in section.findings if finding.problem]


def as_dict(sections: list[Section]) -> dict[str, Any]:
    """The report for JSON."""
    return {section.title: [asdict(finding) for finding in section.findings] for section in sections}


def render(sections: list[Section]) -> RenderableType:
    """The report for a terminal of 100 columns."""
    table = Table.grid(padding=(0, 2))
    for column in ("title", "name", "value"):
        table.add_column(style="bold" if column == "title" else "", no_wrap=column != "value")
    for section in sections:
        for i, finding in enumerate(section.findings):
            value = Text(finding.value, style="red" if finding.problem else "")
            if finding.remedy:
                value.append(f"\n-> {finding.remedy}" if finding.problem else f": {finding.remedy}", style="yellow")
            table.add_row(Text(section.title if i == 0 else ""), Text(finding.name), value)
    found = len(problems(sections))
    closing = f"{found} problem{'s' * (found > 1)}, in red" if found else "no problems found"
    return Group(table, Text(f"\n{closing}", style="bold red" if found else "bold green"))


def _versions() -> list[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    build = build if torch.version.cuda or torch.version.hip else "CPU build"
    ours = f"rerankkit {__version__}, Python {platform.python_version()}, torch {torch.__version__} ({build})"
    others = ", ".join(f"{name} {_version(name) or 'absent'}" for name in PACKAGES)
    return [Finding("core", ours), Finding("packages", others), *_unmet()]


def _unmet() -> list[Finding]:
    """Dependencies of rerankkit itself that are absent or of another version."""
    from packaging.requirements import Requirement

    found = []
    for text in _requirements():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            has = f"{version or 'absent'}, but rerankkit needs {requirement.specifier}"
            found.append(Finding(requirement.name, has, True, f'pip install "{wanted}"'))
    return found


def _device() -> list[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count()
    name, flags = _processor()
    fast = flags & {"avx512_bf16", "amx_bf16", "bf16"}
    bf16 = f"in hardware ({', '.join(sorted(fast))})" if fast else "emulated, so fp32 is faster here"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in os.sysconf_names else 0
    about = f"{name}, {cores} cores, {torch.get_num_threads()} torch threads, {_bytes(pages)}"
    found = [Finding("CPU", about), Finding("bf16", bf16 if flags else "unknown")]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        bf16 = "bf16" if gpu.major >= 8 or torch.version.hip else "no bf16 in hardware"
        about = f"{gpu.name}, {_bytes(gpu.total_memory)}, capability {gpu.major}.{gpu.minor}, {bf16}"
        found.append(Finding(f"GPU {i}", about))
    if torch.cuda.device_count():
        return found
    if torch.backends.mps.is_available():
        return [*found, Finding("GPU", "Apple MPS")]
    if Path("/dev/nvidiactl").exists():
        why = "an NVIDIA GPU is there, but this torch is a CPU build"
        if torch.version.cuda:
            why = f"an NVIDIA GPU is there, but torch (CUDA {torch.version.cuda}) cannot use it"
        return [*found, Finding("GPU", why, True, "install a torch that matches the driver: pytorch.org/get-started")]
    return [*found, Finding("GPU", "none")]


def _processor() -> tuple[str, set[str]]:
    """The processor's name and its instruction sets, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    return name[1] if name else platform.machine(), set(flags[1].split()) if flags else set()


def _kernels() -> list[Finding]:
    import torch

    spec = importlib.util.find_spec("rerankkit_kernels")
    if spec is None or spec.origin is None:
        return [Finding("backend", "rerankkit_kernels is not installed", True, "install rerankkit again")]
    ops = sorted(path.parent.name for path in Path(spec.origin).parent.glob("*/torch.py"))
    uses = _kernels_use(range(torch.cuda.device_count()))
    return [Finding(op, uses) for op in ops]


def _kernels_use(gpus: Sequence[int]) -> str:
    """What "auto" takes on each GPU, as the kernels themselves say, which prove themselves for it."""
    import torch
    from rerankkit_kernels import backend

    configured = backend.configured()
    if configured != "auto":
        return f"auto uses {configured}, as {backend.VARIABLE} says"
    if not gpus:
        return "auto uses torch, as there is no GPU"
    said: dict[str, list[str]] = {}
    for gpu in gpus:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            why = backend.why_torch(torch.device("cuda", gpu), dtype)
            about = str(dtype).removeprefix("torch.") + (f" on GPU {gpu}" if len(gpus) > 1 else "")
            said.setdefault(f"torch, as {why}" if why else "triton", []).append(about)
    if len(said) == 1:
        return f"auto uses {next(iter(said))}"
    return "auto uses " + "; ".join(f"{which} for {', '.join(names)}" for which, names in said.items())


def _embedded(name: str) -> Finding:
    model = MODELS[name]
    version = _version(model.package)
    try:
        folder = folder_of(name)
        spec = importlib.util.find_spec(model.module)
        if version is None or spec is None:
            return Finding(name, "absent", remedy=model.install)
    except InputError:
        return Finding(name, "absent", remedy=model.install)
    if version != model.version:
        return Finding(name, f"{model.package} {version} instead of {model.version}", True, model.install)
    carried = f"{model.package} {version}"
    if model.convert is None:
        return Finding(name, f"{carried}, used as it is")
    if folder.is_dir():
        wrong = defect(folder)
        if wrong:
            return Finding(name, f"{carried}, {folder}: {wrong}", True, "it is made anew at its next use")
        return Finding(name, f"{carried}, converted ({_bytes(size_of(folder))})")
    missing = [module for module in model.needs if importlib.util.find_spec(module) is None]
    if missing:
        return Finding(name, f"{carried}, cannot be converted", True, f"pip install {' '.join(missing)}")
    return Finding(name, f"{carried}, will be converted at its first use ({_bytes(model.size)})")


def _cache() -> Finding:
    folder = cache_folder()
    there = folder
    while not there.exists():
        there = there.parent
    about = f"{folder} ({_bytes(size_of(folder))} used, {_bytes(shutil.disk_usage(there).free)} free)"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("cache", f"{about}, not writable", True, "make it writable or set RERANKKIT_CACHE")
    return Finding("cache", about)


def _hub() -> Finding:
    from huggingface_hub import constants

    switched = [f"{name}={os.environ[name]}" for name in OFFLINE if os.environ.get(name)]
    mode = f"offline by {', '.join(switched)}: only cached models" if constants.HF_HUB_OFFLINE else "downloads allowed"
    return Finding("hub", f"{constants.ENDPOINT}, {mode}; its cache is {constants.HF_HUB_CACHE}")


def _extras() -> list[Finding]:
    """The optional features, with the command for those that lack something."""
    from packaging.requirements import Requirement

    lacking: dict[str, list[str]] = {}
    for text in _requirements():
        requirement = Requirement(text)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        if extra and extra[1] != "dev" and requirement.marker and requirement.marker.evaluate({"extra": extra[1]}):
            lacking.setdefault(extra[1], [])
            if _version(requirement.name) is None:
                lacking[extra[1]].append(requirement.name)
    return [
        Finding(extra, f"lacks {', '.join(names)}" if names else "complete", remedy=_pip(extra) if names else "")
        for extra, names in lacking.items()
    ] or [Finding("unknown", "rerankkit runs from a folder that was never installed", remedy="pip install -e .")]


def _pip(extra: str) -> str:
    return f'pip install "rerankkit[{extra}]"'


def _plugins() -> list[Finding]:
    """Every part that an installed package offers, and whether it imports."""
    groups = {f"{GROUP}{namespace}" for namespace in registry.namespaces()}
    found: dict[tuple[str, str, str], Finding] = {}
    for distribution in importlib.metadata.distributions():
        package = f"{distribution.name} {distribution.version}"
        for point in distribution.entry_points:
            if not point.group.startswith(GROUP):
                continue
            name = f"{point.group.removeprefix(GROUP)} {point.name}"
            found[(point.group, point.name, package)] = Finding(name, package)
            if point.group not in groups:
                about = f"{package}: no group {point.group!r}{did_you_mean(point.group, groups)}"
                remedy = f"tell the authors of {distribution.name}"
                found[(point.group, point.name, package)] = Finding(name, about, True, remedy)
                continue
            try:
                point.load()
            except (Exception, SystemExit) as error:  # a stranger's module may do anything when imported
                about = f"{package} fails to import: {_one_line(error)}"
                remedy = f"upgrade or uninstall {distribution.name}"
                found[(point.group, point.name, package)] = Finding(name, about, True, remedy)
    return [found[key] for key in sorted(found)] or [Finding("none", "no installed package brings parts")]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("rerankkit") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
