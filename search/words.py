# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Which words of a sentence a model knows: one that it does not know changes nothing in what it finds or answers."""

import re

from transformers import PreTrainedTokenizerBase

from ..errors import InputError

# Alone, these describe nothing; a model that knows no other word of a sentence finds the same for all such sentences.
FUNCTION_WORDS = frozenset(
    "a an the this that these those some any and or but of to in on at by for from with as is are was were be been "
    "being it its there then while so do does did has have had".split()
)
SMALL = 200  # words of a vocabulary that can be told as a list


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the words of which a model reads nothing, in order."""
    return [word for word in words_of(text) if not is_known(tokenizer, word)]


def check_words(tokenizer: PreTrainedTokenizerBase, text: str, is_answer: bool = False) -> list[str]:
    """Return the words that a model does not know.

    Raises:
        InputError: if it knows none of the others; or only such as "a" and "of", which may be an answer, but no query.
    """
    words, unknown = words_of(text), unknown_words(tokenizer, text)
    known = [word for word in words if word not in unknown]
    if not known:
        few = vocabulary(tokenizer)
        advice = f"it knows: {', '.join(few)}" if few else "say in English, as in: a dog catches a frisbee"
        raise InputError(f"The model knows no word of {text!r:.100}; {advice}.")
    if not is_answer and FUNCTION_WORDS.issuperset(known):
        those = ", ".join(dict.fromkeys(known))
        raise InputError(f"Of {text!r:.100} the model knows only {those}: words that describe nothing; use others.")
    return unknown


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """Return the words of a model that knows few, or else `None`."""
    special = set(tokenizer.all_special_tokens)
    words = sorted(word for word in tokenizer.get_vocab() if word not in special)
    return words if len(words) <= SMALL else None


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def is_known(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    return not {tokenizer.unk_token_id}.issuperset(tokenizer(word, add_special_tokens=False)["input_ids"])
