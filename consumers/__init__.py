"""Feeds: Kafka streams and bulk runs over Parquet."""
