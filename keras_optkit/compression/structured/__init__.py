"""Structured pruning: channels leave a model, and it becomes smaller."""
