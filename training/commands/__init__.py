"""What `python -m training` can do: what may be typed, and what the commands do."""
