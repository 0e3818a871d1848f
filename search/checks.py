# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What may be asked for: numbers within bounds, and sentences that a model can read."""

import logging
import math
import unicodedata
from collections import Counter

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..processing_svitt import SViTTProcessor, clean_text

MAX_QUERY_LENGTH = 1000  # characters; models read some dozens of words
# Of the tokens of a vocabulary that has learned a script. BERT's English one has single letters of a dozen others.
SHARE_OF_KNOWN_SCRIPT = 0.02

logger = logging.getLogger(__name__)


def check_number(name: str, value: float, least: float, most: float = math.inf):
    """Raise an `InputError` for an option out of bounds, infinite, or NaN."""
    if not (least <= value <= most and value < math.inf):
        bounds = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise InputError(f"--{name} {value:g}: must be {bounds}.")


def check_query(processor: SViTTProcessor, text: str):
    """Raise an `InputError` for a text that says nothing to a model; warn of the parts that are lost on it."""
    if not text.strip():
        raise InputError("The query is empty; describe what a video shows, as in: a dog catches a frisbee.")
    if len(text) > MAX_QUERY_LENGTH:
        raise InputError(
            f"The query has {len(text):,} characters, at most {MAX_QUERY_LENGTH:,} are taken; a sentence is best."
        )
    check_script(processor.tokenizer, text)
    words = (clean_text(text) if processor.clean_text else text).split()
    tokens = [processor.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    unknown = [word for word, ids in zip(words, tokens, strict=True) if processor.tokenizer.unk_token_id in ids]
    if not any(character.isalnum() for word in words for character in word):
        raise InputError(f"The query {text!r:.100} has no word; describe what a video shows.")
    if not any(character.isalnum() for word in words if word not in unknown for character in word):
        raise InputError(f"The model knows no word of the query {text!r:.100}; use those that it was trained on.")
    if unknown:
        logger.warning("The model does not know these words of the query: %s.", ", ".join(dict.fromkeys(unknown)))
    [read] = processor(text=[text])["input_ids"]
    added = (processor.tokenizer.cls_token_id, processor.tokenizer.sep_token_id)
    if sum(id not in added for id in read) < sum(map(len, tokens)):
        beginning = processor.tokenizer.decode(read, skip_special_tokens=True)
        logger.warning("The query is too long, the model reads only its beginning: %s", beginning)


def check_script(tokenizer: PreTrainedTokenizerBase, text: str):
    """Raise an `InputError` for a text most of whose letters are of scripts that the vocabulary hardly has."""
    known = known_scripts(tokenizer)
    letters = [script_of(letter) for letter in text if letter.isalpha()]
    strange = [script for script in letters if script not in known]
    if known and 2 * len(strange) > len(letters):
        [(script, _)] = Counter(strange).most_common(1)
        raise InputError(
            f"The query {text!r:.100} has {script} letters, but the model has learned from texts in "
            f"{' and '.join(sorted(known))}."
        )


def known_scripts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Such as LATIN, CYRILLIC, CJK or HANGUL: those with whose letters a good share of the tokens begin."""
    tokens = [token.removeprefix("##") for token in tokenizer.get_vocab()]
    counts = Counter(script_of(token[0]) for token in tokens if token and token[0].isalpha())
    return {script for script, count in counts.items() if count >= SHARE_OF_KNOWN_SCRIPT * len(tokens)}


def script_of(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
