"""Pruning: weights that do not matter become exact zeros."""
