"""Exact losses, scores and comparisons."""
