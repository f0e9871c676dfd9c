"""What operating the service costs: reloads and the shadow, measured while requests go on."""
