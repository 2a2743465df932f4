"""A feature store on disk: written, locked, read."""
