"""Tables and figures of a finished check."""
