"""Whether the projects themselves load what `Reranker.export` writes, and score as rerankkit does.

    PYTHONPATH=.:kernels python tests/golden/check_exports.py write FOLDER    with rerankkit
    python tests/golden/check_exports.py pylate FOLDER                        with pylate 1.6.0
    python tests/golden/check_exports.py stanford FOLDER                      with colbert-ai 0.2.22
    python tests/golden/check_exports.py sentence_transformers FOLDER         with sentence-transformers 6.2

The first writes the folders and rerankkit's scores; each of the others needs its own project alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from texts import DOCUMENTS, QUERIES

Scores = list[list[float]]
COLBERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pylate/default": ("pylate", {}),
    "pylate/attend": ("pylate", {"model.collator.attend_to_expansion": True, "model.collator.document_max_length": 40}),
    "pylate/plain": (
        "pylate",
        {
            "model.collator.query_expansion": False,
            "model.collator.query_marker": "",
            "model.collator.document_marker": "",
            "model.collator.skiplist": ["the", ","],
            "model.head.bias": True,
        },
    ),
    "pylate/lora": ("pylate", {"model.backbone.lora.r": 4}),
    "stanford/default": ("stanford", {}),
    "stanford/attend": (
        "stanford",
        {"model.collator.attend_to_expansion": True, "model.collator.query_max_length": 24},
    ),
    "stanford/lora": ("stanford", {"model.backbone.lora.r": 4}),
}
LENGTHS = (512, 64)


def write(folder: Path) -> None:
    from rerankkit import Reranker

    expected = {}
    for name, (layout, overrides) in COLBERTS.items():
        torch.manual_seed(0)
        reranker = Reranker.from_recipe("colbert", overrides)
        reranker.untrained = False
        for key, weight in reranker.parts.backbone.module.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.05)
        reranker.export(folder / name, layout)
        expected[name] = _scores(reranker)
    for length in LENGTHS:
        name = f"transformers/{length}"
        reranker = Reranker.from_pretrained("embedded:ms-marco-minilm-l12", {"model.collator.max_length": length})
        reranker.export(folder / name, "transformers")
        expected[name] = _scores(reranker)
    (folder / "expected.json").write_text(json.dumps(expected))


def _scores(reranker: Any) -> Scores:
    return [reranker.compute_score([[query, document] for document in DOCUMENTS]) for query in QUERIES]


def pylate(folder: Path) -> Scores:
    from pylate import models

    model = models.ColBERT(str(folder), device="cpu")
    return _maxsim(model.encode(QUERIES, is_query=True), model.encode(DOCUMENTS, is_query=False))


def stanford(folder: Path) -> Scores:
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint
    from colbert.modeling.colbert import colbert_score

    model = Checkpoint(str(folder), colbert_config=ColBERTConfig(), verbose=0)
    ids, seen = model.doc_tokenizer.tensorize(DOCUMENTS)
    documents, kept = model.doc(ids, seen, keep_dims="return_mask")
    queries = model.queryFromText(QUERIES)
    return [colbert_score(query[None], documents, kept, config=model.colbert_config).tolist() for query in queries]


def sentence_transformers(folder: Path) -> Scores:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

    if folder.parent.name != "transformers":
        model = MultiVectorEncoder(str(folder), device="cpu")
        return _maxsim(model.encode_query(QUERIES), model.encode_document(DOCUMENTS))
    cross = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    scores = [cross.predict([(query, document or " ") for document in DOCUMENTS]).tolist() for query in QUERIES]
    if folder.name == "64":  # the last query alone is longer; it is cut there, and the document is cut here
        scores = scores[:-1]
    return scores


def _maxsim(queries: Any, documents: Any) -> Scores:
    pairs = [[(torch.as_tensor(q), torch.as_tensor(d)) for d in documents] for q in queries]
    return [[(query @ document.T).amax(1).sum().item() for query, document in row] for row in pairs]


READS = {
    "pylate": ("pylate",),
    "stanford": ("stanford",),
    "sentence_transformers": ("pylate", "stanford", "transformers"),
}


def main(command: str, place: str) -> None:
    folder = Path(place)
    if command == "write":
        return write(folder)
    project = {"pylate": pylate, "stanford": stanford, "sentence_transformers": sentence_transformers}[command]
    for name, expected in json.loads((folder / "expected.json").read_text()).items():
        if name.partition("/")[0] in READS[command]:
            found = torch.tensor(project(folder / name))
            apart = (found - torch.tensor(expected)[: len(found)]).abs().max().item()
            print(f"{command} of {name}: {apart:.1e}")
            assert apart < 1e-4
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
