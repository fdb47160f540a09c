"""Strategies: an order from scores, one component a file."""
