"""The command line: translates words into actions and results into words. One file per group of commands."""
