"""Collators: tokens and tensors from prompts, one component a file."""
