"""Vector databases: LanceDB, PostgreSQL with pgvector, Qdrant."""
