"""The report of a purification: JSON, a page and pictures."""
