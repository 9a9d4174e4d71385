"""Pages for people: the front of a sweep, the slates of its points, the inspection of slates.

Figures are computed below. Below: fronts, evaluation. Above: sweep.
"""
