"""The synchronous step loop; it speaks ids only."""
