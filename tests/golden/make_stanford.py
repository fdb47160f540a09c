"""Golden late-interaction scores from Stanford's ColBERT, of a checkpoint in its own layout.

    python tests/golden/make_stanford.py FOLDER

FOLDER is what checkpoints.py wrote. Needs colbert-ai 0.2.22 with transformers 4 and a C++ compiler; nothing of
rerankkit, and neither faiss nor a GPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from colbert.infra import ColBERTConfig
from colbert.modeling.checkpoint import Checkpoint
from colbert.modeling.colbert import colbert_score
from safetensors.torch import load_file
from texts import DOCUMENTS, QUERIES, rounded, write


def check_saved_alike(model: Checkpoint, folder: Path) -> None:
    """What it saves again has the weights that it was given under the same names, and reads the same settings."""
    with tempfile.TemporaryDirectory() as saved:
        model.save(saved)
        ours, theirs = load_file(folder / "model.safetensors"), load_file(Path(saved) / "model.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
        again = ColBERTConfig.load_from_checkpoint(saved).export()
    settings = ColBERTConfig.load_from_checkpoint(str(folder)).export()
    assert {name for name in settings if settings[name] != again[name]} <= {"checkpoint"}


def main(folder: str) -> None:
    cases = {}
    for place in sorted((Path(folder) / "stanford").iterdir()):
        model = Checkpoint(str(place), colbert_config=ColBERTConfig(), verbose=0)
        check_saved_alike(model, place)
        query_ids, query_attention = model.query_tokenizer.tensorize(QUERIES)
        queries = model.queryFromText(QUERIES)  # [queries, query_maxlen, dim]
        document_ids, document_attention = model.doc_tokenizer.tensorize(DOCUMENTS)
        documents, kept = model.doc(document_ids, document_attention, keep_dims="return_mask")
        scores = [colbert_score(query[None], documents, kept, config=model.colbert_config) for query in queries]
        lengths = document_attention.sum(1).tolist()
        cases[place.name] = {
            "projection": rounded(model.linear.weight[0, :4].tolist()),
            "query_ids": query_ids.tolist(),
            "query_attention": query_attention.tolist(),
            "document_ids": [ids[:n].tolist() for ids, n in zip(document_ids, lengths, strict=True)],
            "document_kept": [row[:n, 0].int().tolist() for row, n in zip(kept, lengths, strict=True)],
            "query_rows": rounded(queries[:, :2, :16].tolist()),
            "document_rows": rounded(documents[:, :2, :16].tolist()),
            "scores": rounded(torch.stack(scores).tolist()),
        }
    golden = {"queries": QUERIES, "documents": DOCUMENTS, "cases": cases}
    write(Path(__file__).with_name("stanford.json"), ["torch", "transformers", "tokenizers", "colbert-ai"], golden)


if __name__ == "__main__":
    main(*sys.argv[1:])
