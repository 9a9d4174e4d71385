"""MLflow: what a run holds (runs.py) and the store that it lies in (store.py).

Not the pages (report/) nor the reading of a sweep (fronts/). Below: data. Above: slates.
"""
