"""One training run on Ray Train: launch starts it, loop runs on each worker, step does the sums."""
