"""The command line: subcommands, options, what is printed."""
