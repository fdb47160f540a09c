"""Heads: scores from hidden states, one component a file."""
