"""Job files for clusters: workers of a study, one stage over several nodes, backends of `mlflow run`."""
