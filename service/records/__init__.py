"""The decision record: what was answered, written to SQLite files and read back."""
