"""Backbones: hidden states from tensors, one component a file."""
