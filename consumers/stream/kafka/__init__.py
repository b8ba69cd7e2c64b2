"""The log on Apache Kafka, through either client; what is asked of a broker besides."""
