"""Who is computed next, and in which pages. Standard library and core only.

``scheduler.Scheduler`` turns requests into step plans and step results into events; everything
else here is a part of it. The simulator runs this code unchanged.
"""
