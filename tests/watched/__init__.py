"""Commands under a hook that notes what they write, start and connect to."""
