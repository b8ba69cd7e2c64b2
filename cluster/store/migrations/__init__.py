"""The store's schema, step by step. Run by `cluster.store.engine` when a store is opened."""
