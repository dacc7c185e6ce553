"""The web dashboard: Streamlit pages over the Parquet files of a workspace, read through DuckDB."""
