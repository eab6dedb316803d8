"""The command line: composes the verbs of the other packages."""
