"""Exports of a trained network: files by which other programs use it, each with a model card, each checked."""
