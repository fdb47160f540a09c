"""Log-probabilities of given tokens, with the vocabulary in chunks."""

from rerankkit_kernels.logprob.api import sequence_logprob, token_logprob

__all__ = ["sequence_logprob", "token_logprob"]
