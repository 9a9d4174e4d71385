"""The files that a shop or a published data set has -> the clicks and items that we read.

Column names are guessed or known by layout; no row is judged here. Below: formats. Above: data.
"""
