# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Sentences of the pages are short: fewer than 16 words on average, none over 35.

Run as a script, this prints both figures of each page, and the sentences that are too long.
"""

import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
MEAN, LONGEST = 16, 35
TOO_SHORT = 4  # words: names and numbers are not sentences, and would hide long ones in the mean
ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "cf.", "al.", "St.")
ITEM = re.compile(r" *(?:[-*]|\d+\.) +")


def blocks(markdown: str):
    """Yield paragraphs, items of lists and cells of tables, without headings, code and targets of links.

    Each is a text, and whether it is a cell. An item that ends with a comma, a semicolon or a colon goes on in the next
    one, so that a list cannot chop a sentence.
    """
    markdown = re.sub(r"^( *)```.*?^ *```|<!--.*?-->", "", markdown, flags=re.DOTALL | re.MULTILINE)
    markdown = re.sub(r"^( {4}.*\n)+", "", markdown, flags=re.MULTILINE)  # code without fences
    markdown = re.sub(r"`[^`]+`", "Code", markdown)
    markdown = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", markdown)
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = ""
    for line in [*markdown.splitlines(), ""]:
        is_item = ITEM.match(line)
        if line.lstrip().startswith(("#", "|")) or not line.strip() or is_item:
            # Before a list, a colon ends a sentence. Within it, what does not end goes on.
            goes_on = is_item and text.rstrip().endswith((",", ";", ":")) and text.startswith("\0")
            if text and not goes_on:
                yield text.strip("\0 "), False
                text = ""
        if line.lstrip().startswith("|"):
            yield from ((cell.strip(), True) for cell in line.strip().strip("|").split("|"))
        elif line.strip() and not line.startswith("#"):
            text += ("\0" if is_item and not text else " ") + line[is_item.end() if is_item else 0 :].strip()


def sentences(markdown: str, with_cells: bool = True) -> list[str]:
    """Return what ends with a full stop, a question mark or an exclamation mark, or at the end of a block."""
    found = []
    for block, is_cell in blocks(markdown):
        if is_cell and not with_cells:
            continue
        start = 0
        for end in re.finditer(r"[.!?][\"'”)*_\]]*(?=\s|$)", block):
            if not block[start : end.end()].endswith(ABBREVIATIONS):
                found.append(block[start : end.end()].strip())
                start = end.end()
        found.append(block[start:].strip())
    return [sentence for sentence in found if count(sentence) >= TOO_SHORT]


def count(sentence: str) -> int:
    """Return the number of words, of which a name in backquotes is one."""
    return len([word for word in re.split(r"\s+|[—–…]", sentence) if re.search(r"\w", word)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_sentences_are_short(page):
    text = page.read_text()
    assert not [sentence for sentence in sentences(text) if count(sentence) > LONGEST]
    assert mean(map(count, sentences(text, with_cells=False))) < MEAN  # cells are short by nature


def test_semicolons_and_lists_do_not_end_a_sentence():
    assert sentences("One two three; four five: six seven.") == ["One two three; four five: six seven."]
    assert sentences("We list these things:\n\n- one of them,\n- and the other one.\n") == [
        "We list these things:",
        "one of them, and the other one.",
    ]
    assert sentences("It took a second 936. Then it was merged.") == ["It took a second 936.", "Then it was merged."]
    assert sentences("- first of the items\n- second of the items\n") == ["first of the items", "second of the items"]


def test_code_links_and_tables_are_read_as_people_do():
    page = "# A title that is not a sentence\n\nSee [the first page](there/x.md), e.g. `a b c`. Then it stops there!\n"
    assert sentences(page) == ["See the first page, e.g. Code.", "Then it stops there!"]
    assert sentences("```bash\nrun this and that and more\n```\n\n| a | It has four words |\n|---|---|\n") == [
        "It has four words"
    ]


if __name__ == "__main__":
    for page in PAGES:
        longest = sorted(sentences(page.read_text()), key=count, reverse=True)
        average = mean(map(count, sentences(page.read_text(), with_cells=False)))
        print(f"{page.relative_to(ROOT)}: {average:.1f} words a sentence, the longest {count(longest[0])}")
        print("".join(f"  {count(one)}: {one}\n" for one in longest if count(one) > LONGEST), end="")
