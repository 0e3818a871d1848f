"""Annotations and shards become rows, rows become clips and batches."""
