"""Golden late-interaction scores by the rules of open-retrievals, written here from its description.

    python tests/golden/make_open_retrievals.py FOLDER

FOLDER is what checkpoints.py wrote. Needs transformers alone; nothing of rerankkit. The rules: no markers, no
expansion, no skiplist; the first position is dropped, the others, the separator among them, are projected and
normalised; a document's score is the mean, in older versions the sum, over the query's tokens of their best match.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from texts import DOCUMENTS, QUERIES, rounded, write
from transformers import AutoModel, AutoTokenizer

MAX_LENGTH = 256


@torch.no_grad()
def main(folder: str) -> None:
    place = Path(folder) / "open_retrievals"
    model = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    linear = torch.load(place / "colbert_linear.pt", weights_only=True)

    def vectors(text: str) -> torch.Tensor:
        ids = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        hidden = model(**ids).last_hidden_state[0, 1:]  # [tokens - 1, hidden]
        projected = hidden @ linear["weight"].T + linear["bias"]
        return projected / projected.norm(dim=1, keepdim=True)

    def best(query: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
        return torch.stack([max(token @ other for other in document) for token in query])

    queries, documents = [vectors(text) for text in QUERIES], [vectors(text) for text in DOCUMENTS]
    matches = [[best(query, document) for document in documents] for query in queries]
    golden: dict[str, Any] = {
        "max_length": MAX_LENGTH,
        "projection": rounded(linear["weight"][0, :4].tolist()),
        "queries": QUERIES,
        "documents": DOCUMENTS,
        "query_shapes": [list(query.shape) for query in queries],
        "document_shapes": [list(document.shape) for document in documents],
        "query_rows": [rounded(query[:2, :16].tolist()) for query in queries],
        "document_rows": [rounded(document[:2, :16].tolist()) for document in documents],
        "sum": [[round(match.sum().item(), 6) for match in row] for row in matches],
        "mean": [[round(match.mean().item(), 6) for match in row] for row in matches],
    }
    write(Path(__file__).with_name("open_retrievals.json"), ["torch", "transformers", "tokenizers"], golden)


if __name__ == "__main__":
    main(*sys.argv[1:])
