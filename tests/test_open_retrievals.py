"""README's "Coming from open-retrievals": every snippet and command runs, and every row is in one of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import datasets
import pytest
import tiny
import tiny_bert
import tiny_training

from rerankkit import Reranker

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "README.md").read_text().split("\n## Coming from open-retrievals\n")[1].split("\n## ")[0]
SNIPPETS = re.findall(r"^```python\n# open-retrievals: (.*?)\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
SHELL = SECTION.split("```bash\n")[1].split("```")[0] + "\n"
COMMANDS = re.findall(r"^# open-retrievals: (.*?)\n(.*?)(?=\n\n)", SHELL, flags=re.MULTILINE | re.DOTALL)
ROWS = [line.strip("|").split("|") for line in SECTION.splitlines() if line.startswith("| `")]


@cache
def instead() -> dict[str, str]:
    """Tiny checkpoints in place of those that the page names; every training ends after two steps."""
    return {
        "BAAI/bge-reranker-base": str(tiny_bert.classifier()),
        "BAAI/bge-m3": str(tiny_bert.with_projection()),
        "hfl/chinese-roberta-wwm-ext": str(tiny_bert.encoder()),
        "BAAI/bge-reranker-v2-gemma": str(tiny.folder()),
        "Qwen/Qwen2-1.5B-Instruct": str(tiny.folder()),
        '"model.head.dim": 1024': '"model.head.dim": 24',
        '"dim": 1024': '"dim": 24',
        '"training.num_train_epochs": 3': '"training.num_train_epochs": 1',
        "--training.num_train_epochs 3": "--training.num_train_epochs 1",
        "--training.per_device_train_batch_size 64": "--training.per_device_train_batch_size 2",
        "--training.fp16 true": "--training.fp16 false",  # which transformers grants to accelerators alone
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_training.write_rows(tmp_path / "t2_ranking.jsonl", 4)
    rows = [json.loads(line) for line in (tmp_path / "t2_ranking.jsonl").read_text().splitlines()]
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "C-MTEB/T2Reranking")
    return tmp_path


def fitted(text: str) -> str:
    for name, stand_in in instead().items():
        text = text.replace(name, stand_in)
    return text


@pytest.mark.parametrize(("title", "code"), SNIPPETS, ids=[title for title, _ in SNIPPETS])
def test_a_snippet_runs(here: Path, title: str, code: str) -> None:
    scope: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(fitted(code), title, "exec"), scope)
    if title.startswith("fine-tune"):
        saved = next(here.glob("checkpoints/*"))
        pair = ["open file", "open file python"]
        assert Reranker.from_pretrained(saved).compute_score(pair) == scope["model"].compute_score(pair)  # type: ignore[attr-defined]
    else:
        scores = json.loads(said.getvalue().partition("Ranking score: ")[2])
        assert len(scores) == 2 and scores[0] != scores[1]
    if "model.encode" in code:
        assert [vectors.shape[1] for vectors in scope["embeddings"]] == [24, 24]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("title", "command"), COMMANDS, ids=[title for title, _ in COMMANDS])
def test_a_command_runs(here: Path, title: str, command: str) -> None:
    words = shlex.split(fitted(command).replace("\\\n", " "))
    assert words[:4] == ["torchrun", "--nproc_per_node", "1", "-m"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = here / words[words.index("--output") + 1]
    assert len(Reranker.from_pretrained(output).compute_score([["open file", "open"], ["open file", "cat"]])) == 2


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip()[:50] for row in ROWS])
def test_a_row_of_the_table_is_in_what_runs(row: list[str]) -> None:
    run = " ".join(" ".join(text for _, text in [*SNIPPETS, *COMMANDS]).replace("\\\n", " ").split())
    there, ours = row
    wanted = re.findall(r"`([^`]+)`", ours)
    assert there.count("`") >= 2
    if ours.strip().startswith("nothing"):
        assert not any(flag in run for flag in re.findall(r"--\w+", there))
    else:
        assert wanted and [part for part in wanted if part not in run] == []


def test_every_flag_of_the_page_has_a_row() -> None:
    flags = """output_dir overwrite_output_dir model_name_or_path tokenizer_name model_type do_train data_name_or_path
    positive_key negative_key learning_rate fp16 bf16 num_train_epochs per_device_train_batch_size dataloader_drop_last
    max_length max_len save_total_limit logging_steps train_group_size unfold_each_positive use_inbatch_negative
    causal_lm use_lora task_prompt query_instruction document_instruction gradient_accumulation_steps save_steps"""
    shown = set(re.findall(r"--(\w+)", " ".join(there for there, _ in ROWS)))
    assert set(flags.split()) - shown == set()
    assert (len(SNIPPETS), len(COMMANDS)) == (5, 3)
