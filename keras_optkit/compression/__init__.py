"""Smaller models: pruning, and export for devices."""
