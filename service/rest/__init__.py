"""The HTTP endpoints: routes, and the middleware around them."""
