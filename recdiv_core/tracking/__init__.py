"""MLflow: runs (runs.py), their texts (description.py), trials (children.py), the store (store.py).

Not the pages (report/), nor a sweep as data (fronts/). Below: data. Above: slates.
"""
