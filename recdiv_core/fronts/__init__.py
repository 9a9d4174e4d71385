"""A sweep as data: its trials, read from MLflow, and their front.

Not the training of trials (sweep/), nor the pages (report/). Below: tracking, metrics.
"""
