"""Network access: the model hub, and OpenAI-compatible endpoints."""
