"""Golden scores of a cross-encoder, from transformers and from sentence-transformers.

    python tests/golden/make_cross_encoder.py FOLDER

FOLDER is `embedded:ms-marco-minilm-l12`, as rerankkit converts it: a plain checkpoint of transformers. Needs
sentence-transformers 6.2 and what it brings; nothing of rerankkit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from texts import LONG_PAIRS, PAIRS, SPECIAL_PAIRS, rounded, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@torch.no_grad()
def main(folder: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def logit(query: str, document: str, max_length: int = 512) -> float:
        """One pair at a time, so that there is no padding, but in lists: else an empty document loses its separator."""
        cut = tokenizer([query], [document], truncation="only_second", max_length=max_length, return_tensors="pt")
        return model(**cut).logits.item()

    peer = CrossEncoder(folder, device="cpu", max_length=512)
    lengths = [len(ids) for ids in tokenizer(PAIRS).input_ids]
    long_lengths = [len(ids) for ids in tokenizer(LONG_PAIRS).input_ids]
    assert max(lengths) <= 512 < min(long_lengths)
    logits = [logit(*pair) for pair in PAIRS]
    scores = peer.predict(PAIRS, batch_size=32, show_progress_bar=False).tolist()
    assert torch.allclose(torch.tensor(logits).sigmoid(), torch.tensor(scores), atol=1e-6)
    golden = {
        "model": "embedded:ms-marco-minilm-l12",
        "pairs": PAIRS,
        "lengths": lengths,
        "logits": rounded(logits),
        "activation": type(peer.activation_fn).__name__,
        "sentence_transformers": rounded(scores, 9),
        "special_pairs": SPECIAL_PAIRS,
        "special_ids": tokenizer(SPECIAL_PAIRS).input_ids,
        "special_logits": rounded([logit(*pair) for pair in SPECIAL_PAIRS]),
        "long_pairs": LONG_PAIRS,
        "long_lengths": long_lengths,
        "long_logits_512": rounded([logit(*pair) for pair in LONG_PAIRS]),
        "long_logits_128": rounded([logit(*pair, max_length=128) for pair in LONG_PAIRS]),
        "long_sentence_transformers": rounded(peer.predict(LONG_PAIRS, show_progress_bar=False).tolist(), 9),
    }
    write(
        Path(__file__).with_name("cross_encoder.json"),
        ["torch", "transformers", "tokenizers", "sentence-transformers"],
        golden,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
