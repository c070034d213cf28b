"""Text as it lies in files."""
