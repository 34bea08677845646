"""Checkpoints: files of weights, read safely, as the arrays that a program's operations want."""
