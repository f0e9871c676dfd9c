"""HTTP/1.1 on one connection: uvicorn's protocol with a fast path, limits and time-outs."""
