"""Scores archives of videos through running servers: lists of any length, resumable, into Parquet."""
