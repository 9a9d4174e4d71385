"""What leaks, what is doubled, and what metrics are worth.

preparing.py audits what `prepare` writes, with the clock of the raw log; prepared.py audits a
prepared data set on its own. Both use the table of findings.py.
"""
