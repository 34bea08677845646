"""A file of requests, worked through once: what `octavo batch` does, and its two files."""
