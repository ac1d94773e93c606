"""What the figures read from a run's files: its summary JSON, its CSV of requests and its power series."""
