"""Readers: groups from a source, one component a file."""
