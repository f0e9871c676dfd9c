"""What `python -m service` can do: a module a command, and the command line that they share."""
