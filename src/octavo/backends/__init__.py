"""Backends: what computes programs. Each stands alone; `base` is the contract."""
