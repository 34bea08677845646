"""Models as programs: operations over named values, with their shapes. Nothing here computes."""
