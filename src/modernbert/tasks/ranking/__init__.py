"""Learning to rank: losses on scores, late-interaction scores, gradients of large batches, and batches of examples."""
