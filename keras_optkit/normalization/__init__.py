"""BatchNorm: blocks that hold it."""
