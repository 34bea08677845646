"""A paged, batching LLM inference and serving engine."""
