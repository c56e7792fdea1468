"""When training stops."""
