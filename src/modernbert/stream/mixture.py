"""Weights of a mixture with a limit on the repetitions of a source."""

from collections.abc import Mapping

from modernbert.errors import ConfigError


def cap_repeats(
    weights: Mapping[str, float], source_tokens: Mapping[str, int], tokens: int, max_repeats: float
) -> dict[str, float]:
    """Shares of the sources in `tokens` tokens, with at most `max_repeats` epochs of each source. They sum to 1.

    A source that is too small is replaced by the others in proportion to their weights, up to their own limits.
    (About four epochs of a source cost little quality, more of them help less and less: Muennighoff et al. 2023,
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
