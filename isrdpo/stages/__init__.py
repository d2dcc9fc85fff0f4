"""The pipeline, one file a stage: data, respond, judge, train, evaluate, and beside them look and score.
Stages import the packages below them, never each other and never `reports`.
"""
