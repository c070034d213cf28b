"""Search in texts: an index on disk, exact search in it, and vectors of whole files."""
