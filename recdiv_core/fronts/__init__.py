"""A sweep as data: its trials, read from MLflow, and the front that they reach.

Nothing is trained or drawn here. Below: tracking, metrics. Above: report, sweep.
"""
