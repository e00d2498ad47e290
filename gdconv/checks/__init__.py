"""From options to verdict, on one page: `run`. Saving, loading, replay."""
