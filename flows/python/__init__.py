"""The Python interface: a workspace, its models, batches and scorers, with tables in pandas; see `nelbo`."""
