"""Losses: a number from scores and labels, one component a file."""
