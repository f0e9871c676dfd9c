"""The server: uvicorn with our protocols, its processes and its sockets; and the application put together."""
