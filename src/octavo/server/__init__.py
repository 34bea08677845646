"""The HTTP server: the OpenAI API, health and metrics, on top of asynchronous clients."""
