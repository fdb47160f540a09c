"""Formatters: the prompt of an ask, one component a file."""
