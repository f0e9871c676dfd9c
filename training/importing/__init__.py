"""Reads policies that other programs have trained: weights alone, and never by unpickling."""
