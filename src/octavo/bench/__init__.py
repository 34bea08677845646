"""Measuring: each module prints figures and is run with ``python -m octavo.bench.NAME``."""
