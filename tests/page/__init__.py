"""Tests of the page at `/`: its modules on Node, and the whole of it in a real browser."""
