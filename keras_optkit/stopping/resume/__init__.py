"""Resuming: a training that was killed goes on as if it had not been."""
