"""One room for each kind of task."""
