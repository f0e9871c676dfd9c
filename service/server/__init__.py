"""uvicorn with our own protocols, processes and sockets, and the application put together."""
