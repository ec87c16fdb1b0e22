"""Everything that is read from a file or written to one goes through here."""
