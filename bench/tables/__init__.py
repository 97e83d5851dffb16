"""Rows as tables: columns, summaries, statistics, comparisons, and their formats."""
