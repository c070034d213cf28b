"""Words as BM25 counts them, for every language without a dictionary."""

import regex

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}_]+")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々]+")


def words_of(text: str) -> list[str]:
    """Lower-case words; of scripts that put no spaces between words, every two neighbouring characters.

    Bigrams are the usual stand-in for words there (Nie et al. 2000, for Chinese); a character alone is itself.
    """
    found: list[str] = []
    for match in _WORD.finditer(text.casefold()):
        place = 0
        word = match.group()
        for part in _UNSPACED.finditer(word):
            if part.start() > place:
                found.append(word[place : part.start()])
            characters = part.group()
            found += [characters[n : n + 2] for n in range(max(1, len(characters) - 1))]
            place = part.end()
        if place < len(word):
            found.append(word[place:])
    return found
