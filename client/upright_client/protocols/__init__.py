"""The protocols that are spoken on a connection. They do no input or output of their own."""
