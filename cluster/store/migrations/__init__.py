"""The store's schema, step by step. Run by `cluster.store.sql` when a store is opened."""
