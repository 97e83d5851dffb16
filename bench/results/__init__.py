"""Results on disk: a run's folder, paths to it, provenance, and the removal of leftovers."""
