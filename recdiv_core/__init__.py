"""How it works: from a click log to models whose slates are accurate and diverse.

What one runs is in pipelines/. Importing this starts nothing and reads nothing.
"""
