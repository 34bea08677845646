"""Between text and token ids: tokeniser, detokeniser, chat templates, stop strings."""
