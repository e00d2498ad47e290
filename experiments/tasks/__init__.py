"""Networks and data that only experiments train."""
