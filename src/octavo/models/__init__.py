"""Architectures: from a model's configuration to its program."""
