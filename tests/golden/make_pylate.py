"""Golden late-interaction scores from PyLate, which also proves that checkpoints.py writes what PyLate writes.

    python tests/golden/make_pylate.py FOLDER

FOLDER is what checkpoints.py wrote. Needs pylate 1.6.0, with the transformers 5.3 and sentence-transformers 5.3 that it
asks for; nothing of rerankkit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from pylate import models, rank, scores
from safetensors.torch import load_file
from texts import DOCUMENTS, QUERIES, rounded, write

MARKERS_AS_TEXT = "[Q] [D] [MASK] [SEP] are markers."


def encode(model: models.ColBERT, texts: list[str], is_query: bool) -> list[dict[str, torch.Tensor]]:
    """Every text by itself, so that nothing is padded but a query's expansion."""
    found = model.encode(texts, is_query=is_query, batch_size=1, convert_to_tensor=True, output_value=None)
    return [{key: values[i] for key, values in found.items()} for i in range(len(texts))]


def kept(text: dict[str, torch.Tensor]) -> torch.Tensor:
    """The vectors that take part in scoring."""
    return text["token_embeddings"][text["masks"].bool()]  # [kept, dim]


def maxsim(queries: list[torch.Tensor], documents: list[torch.Tensor]) -> list[list[float]]:
    """The definition, one query and one document at a time."""
    return [[(query @ document.T).amax(1).sum().item() for document in documents] for query in queries]


def described(text: dict[str, torch.Tensor]) -> dict[str, Any]:
    vectors = kept(text)
    return {
        "ids": text["input_ids"].tolist(),
        "attention": text["attention_mask"].int().tolist(),
        "kept": text["masks"].int().tolist(),
        "shape": list(vectors.shape),
        "rows": rounded(vectors[:2, :16].tolist()),  # the beginnings of the first two
    }


def as_ranked_by_pylate(model: models.ColBERT) -> tuple[list[list[float]], list[list[float]]]:
    """Its everyday path, texts in one batch: `colbert_scores` with masks, `rerank` without; both pad with zeros."""
    queries = model.encode(QUERIES, is_query=True, convert_to_tensor=True)
    documents = model.encode(DOCUMENTS, is_query=False, convert_to_tensor=True)
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [[torch.ones(len(text)) for text in texts] for texts in (queries, documents)]
    scored = scores.colbert_scores(
        pad(queries, batch_first=True),
        pad(documents, batch_first=True),
        *(pad(mask, batch_first=True) for mask in masks),
    )
    ids = list(range(len(DOCUMENTS)))
    ranked = rank.rerank([ids] * len(QUERIES), queries, [documents] * len(QUERIES))
    by_id = [{row["id"]: row["score"] for row in rows} for rows in ranked]
    return scored.tolist(), [[rows[i] for i in ids] for rows in by_id]


def check_saved_alike(model: models.ColBERT, folder: Path) -> None:
    """PyLate saves what it loaded from `folder` with the same files, settings and weights."""
    with tempfile.TemporaryDirectory() as saved:
        model.save(saved, create_model_card=False)
        files = {file.relative_to(saved) for file in Path(saved).rglob("*") if file.is_file()}
        assert files == {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        for file in files:
            ours, theirs = folder / file, Path(saved) / file
            if file.suffix == ".safetensors":
                weights, others = _weights(ours), _weights(theirs)
                assert weights.keys() == others.keys()
                assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
            else:
                assert _settings(ours) == _settings(theirs), file


def _weights(file: Path) -> dict[str, torch.Tensor]:
    """transformers 5.3 writes the names that BERT's norms had of old, and reads both."""
    old = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    return {
        next((name.replace(was, now) for was, now in old.items() if was in name), name): weight
        for name, weight in load_file(file).items()
    }


def _settings(file: Path) -> Any:
    content = json.loads(file.read_text("utf-8"))
    if isinstance(content, dict):
        for key in ("__version__", "transformers_version", "is_local", "local_files_only"):
            content.pop(key, None)
    return content


def main(folder: str) -> None:
    cases = {}
    for place in sorted((Path(folder) / "pylate").iterdir()):
        model = models.ColBERT(str(place), device="cpu")
        check_saved_alike(model, place)
        queries, documents = encode(model, QUERIES, True), encode(model, DOCUMENTS, False)
        colbert_scores, reranked = as_ranked_by_pylate(model)
        cases[place.name] = {
            "projection": rounded(model[1].linear.weight[0, :4].tolist()),
            "queries": [described(query) for query in queries],
            "documents": [described(document) for document in documents],
            "maxsim": rounded(maxsim([kept(query) for query in queries], [kept(document) for document in documents])),
            "colbert_scores": rounded(colbert_scores),
            "rerank": rounded(reranked),
            "markers_as_text": encode(model, [MARKERS_AS_TEXT], False)[0]["input_ids"].tolist(),
        }
    golden = {"queries": QUERIES, "documents": DOCUMENTS, "markers_as_text": MARKERS_AS_TEXT, "cases": cases}
    packages = ["torch", "transformers", "tokenizers", "sentence-transformers", "pylate"]
    write(Path(__file__).with_name("pylate.json"), packages, golden)


if __name__ == "__main__":
    main(*sys.argv[1:])
