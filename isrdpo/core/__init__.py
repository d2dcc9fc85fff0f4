"""The vocabulary that all other packages speak: parameters, records, prompts, the table of stages, runs,
figures and errors. It imports nothing else of the library.
"""
