"""Results on disk: a run's folder, who is at a cell, what dead attempts left."""
