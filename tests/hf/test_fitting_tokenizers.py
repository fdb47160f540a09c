"""A tokenizer fits a model that has no table of embeddings, and need not have added tokens."""

from __future__ import annotations

import tiny_bert
import torch
import transformers
from tokenizers import Tokenizer, models

from rerankkit.hf.integrity import require_fitting_tokenizer


def test_a_model_that_hashes_characters_takes_any_entry() -> None:
    shape = {**tiny_bert.SHAPE, "num_hash_functions": 2, "num_hash_buckets": 16, "downsampling_rate": 2}
    with torch.device("meta"):
        model = transformers.CanineForSequenceClassification(transformers.CanineConfig(**shape))
    require_fitting_tokenizer("it", tiny_bert.tokenizer(), model, "classifier")
    # what it would be refused for, had the model a table
    assert len(tiny_bert.tokenizer()) > 16


def test_a_tokenizer_may_have_no_added_token() -> None:
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    assert not words.added_tokens_decoder
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig(vocab_size=1, **tiny_bert.SHAPE))
    require_fitting_tokenizer("it", words, model, "encoder")
