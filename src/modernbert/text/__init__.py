"""Readers of text files, tokenizers, and texts as token ids."""
