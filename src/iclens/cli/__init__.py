"""The command line: one subcommand a file, found without a list."""
