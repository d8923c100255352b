"""Research baselines, not installed: the query decoders of experiments 1 to 10 on the product's encoder, data, trainer,
losses and metrics, and their comparison with what came after (docs/baselines.md)."""
