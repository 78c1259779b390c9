"""The command line: one file a command, flags, exit codes.

A command is a frozen dataclass: its fields are the flags, their docstrings the help text, and ``run`` does the work. No
module here imports torch before ``run``, so that help is quick: settings lie apart from the work.
"""
