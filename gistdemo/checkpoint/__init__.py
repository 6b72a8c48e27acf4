"""Gist checkpoints: a folder that explains itself."""
