"""A run read back: tables, figures, pages, comparisons and exports. It imports everything below it, and no
stage imports it.
"""
