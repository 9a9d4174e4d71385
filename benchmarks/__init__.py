"""Side-by-side measurements against named peers; each prints one JSON line."""
