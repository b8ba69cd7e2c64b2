"""The brain: decides and remembers. Knows nothing of Ray, Kafka, HTTP or engines."""
