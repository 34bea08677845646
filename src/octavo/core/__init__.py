"""Plain data and small rules that every other part stands on; imports nothing of octavo."""
