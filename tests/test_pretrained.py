"""What a checkpoint says of itself: how much it reads, which weights it lacks, that it is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_encoders
import torch
import transformers

from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.errors import InputError, RunError
from rerankkit.pretrained import load_tokenizer, positions

COUNTING = ["Roberta", "RobertaPreLayerNorm", "XLMRoberta", "XLMRobertaXL", "Camembert", "MPNet", "IBert", "Xmod"]
FROM_ZERO = ["Bert", "DistilBert", "Electra"]


@pytest.mark.parametrize("name", COUNTING + FROM_ZERO)
def test_a_model_reads_as_many_tokens_as_it_is_said_to(name: str) -> None:
    """No token more: positions that are counted from behind the padding token leave some unused."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "DistilBert":
        small = {"dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=20, max_position_embeddings=12, pad_token_id=1, **small)
    if name == "Xmod":
        config.default_language = config.languages[0]
    model = getattr(transformers, f"{name}Model")(config).eval()
    limit = positions(config)
    assert limit == (10 if name in COUNTING else 12)
    model(input_ids=torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))


def test_a_tokenizers_own_limit_gives_way_to_the_models() -> None:
    folder = str(tiny_encoders.encoder("roberta"))
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.max_position_embeddings == 514
    assert load_tokenizer(folder, None, config).model_max_length == 512


def test_a_tokenizer_that_cannot_say_where_its_tokens_stand_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config()
    config.save_pretrained(tmp_path)
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a tokenizer written in Python .ByT5Tokenizer.; it needs a fast one"):
        load_tokenizer(str(tmp_path), None, config)


def test_what_is_no_encoder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for name in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises((InputError, RunError), match=re.escape(str(name))):
            hf_encoder(str(name))
    transformers.T5Config(d_model=8, num_layers=1, vocab_size=20).save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match=r"encoder with a decoder \(t5\), which hf_encoder.v1 cannot read"):
        hf_encoder(str(tmp_path / "t5"))
