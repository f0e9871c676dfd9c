"""What a sweep's rows say together: statistics, tables in Markdown, pictures."""
