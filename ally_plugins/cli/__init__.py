"""The command line. `main` has the table of commands; each module holds a few and is imported when one of them runs."""
