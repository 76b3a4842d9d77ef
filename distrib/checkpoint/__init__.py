"""Checkpoints: safetensors and JSON, atomic, hashed; loading them runs no code."""
