"""Foreign models as zoo entries: what they say becomes a card, their weights safetensors; none of their code is run."""
