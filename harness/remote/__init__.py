"""What is reached over the network: the model hub, and OpenAI-compatible endpoints."""
