"""Formats of tables: text with delimiters, workbooks and Parquet, SD files; each gives a `Grid`."""
