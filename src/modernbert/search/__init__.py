"""Search in texts: an index on disk, search in it, and vectors of the texts of a file."""
