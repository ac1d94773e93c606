"""Pipeline parallelism: a model in stages, several batches on their way (docs/pipeline.md)."""
