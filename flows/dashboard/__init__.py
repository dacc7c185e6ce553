"""The web dashboard: pages over the Parquet files of a workspace, read through DuckDB."""
