"""Measuring: what `octavo bench` runs. Commands and tables are in ``cli``, figures come from here.

Whatever is measured runs in a process of its own (``worker``), so that memory and start-up are
those of one engine.
"""
