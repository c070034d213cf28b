"""Databases that keep texts with their vectors: LanceDB, PostgreSQL with pgvector, Qdrant."""
