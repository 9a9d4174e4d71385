"""Slates -> metrics of a split, of groups, and of differences between runs with intervals.

Not the definitions of the metrics (metrics/). Below: slates. Above: training.
"""
