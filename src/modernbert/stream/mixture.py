"""Weights of a mixture when no source may be repeated too often."""

from collections.abc import Mapping

from modernbert.errors import ConfigError


def cap_repeats(
    weights: Mapping[str, float], source_tokens: Mapping[str, int], tokens: int, max_repeats: float
) -> dict[str, float]:
    """Shares of the sources over `tokens`, so that none gives more than `max_repeats` epochs. They sum to 1.

    What a source cannot give, the others give in proportion to their weights, until they reach their own limit.
    (Repeating a source about four times costs little, beyond that it gives less and less: Muennighoff et al. 2023,
    arXiv 2305.16264.)

    Raises:
        ConfigError: all sources together are too small.
    """
    limits = {name: max_repeats * source_tokens[name] / tokens for name in weights}
    if sum(limits.values()) < 1:
        available = sum(source_tokens[name] for name in weights)
        raise ConfigError(
            f"The phase reads {tokens:,} tokens but its sources hold {available:,}, and max_repeats allows "
            f"{max_repeats:g} epochs of them; give more text, fewer tokens, or a larger max_repeats."
        )
    shares: dict[str, float] = {}
    while True:
        rest, left = 1 - sum(shares.values()), sum(weights[name] for name in weights if name not in shares)
        full = [name for name in weights if name not in shares and rest * weights[name] / left > limits[name]]
        if not full:
            return {name: shares.get(name, rest * weights[name] / left if left else 0.0) for name in weights}
        shares |= {name: limits[name] for name in full}
