"""What a model is trained and used for: one room for each kind of task."""
