"""Files in and out: dataset rows, videos, predictions, benchmark questions and downloads. It imports `core`,
and knows no run.
"""
