"""Benchmarks beside other libraries; each prints one JSON line."""
