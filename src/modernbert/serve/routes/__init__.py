"""HTTP routes, one module for each protocol."""
