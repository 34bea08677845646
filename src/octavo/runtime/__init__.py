"""The client's side: speaking to engines, and turning what they say into answers."""
