"""Learning to rank: losses, late-interaction scores, gradients of large batches, and batches of examples."""
