"""A file of any format -> rows of named columns: CSV, JSON, Parquet, Excel, compressed or not.

Nothing of clicks or items. Below: storage. Above: adapters, data.
"""
