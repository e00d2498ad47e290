"""Options, errors, files, environment, threads, statistics: no mathematics."""
