"""What sentence-transformers' MultiVectorEncoder scores for its own checkpoints, and for those of PyLate and Stanford.

    python tests/golden/make_multi_vector.py FOLDER

FOLDER is what checkpoints.py wrote. Needs sentence-transformers 6.2; nothing of rerankkit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentence_transformers import MultiVectorEncoder
from texts import DOCUMENTS, QUERIES, rounded, write


def main(folder: str) -> None:
    cases = {}
    for layout in ("pylate", "stanford", "multi_vector"):
        for place in sorted((Path(folder) / layout).iterdir()):
            model = MultiVectorEncoder(str(place), device="cpu")
            queries = model.encode_query(QUERIES, show_progress_bar=False)
            documents = model.encode_document(DOCUMENTS, show_progress_bar=False)
            cases[f"{layout}/{place.name}"] = {
                "query_shapes": [list(query.shape) for query in queries],
                "document_shapes": [list(document.shape) for document in documents],
                "scores": rounded(model.similarity(queries, documents).tolist()),
            }
    golden = {"queries": QUERIES, "documents": DOCUMENTS, "cases": cases}
    packages = ["torch", "transformers", "tokenizers", "sentence-transformers"]
    write(Path(__file__).with_name("multi_vector.json"), packages, golden)


if __name__ == "__main__":
    main(*sys.argv[1:])
