"""The command line: one file for each command, without heavy imports at module level."""
