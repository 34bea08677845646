"""From a plan of integers to the arrays of a step, and back to a result."""
