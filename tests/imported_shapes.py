"""Small vocabularies in the shapes that are imported, built here by the `tokenizers` library, and texts that try them."""

from __future__ import annotations

import json
import random
from pathlib import Path

TEXT = (
    "Once upon a time there was a fox. It's 1823, isn't it? Füchslein 😀 said: hello hello!\r\n"
    "WE'LL see 12345 and 3.14; naïve café —  double  blanks\n\n\n\tTabs. 漢字かな交じり文 Привет мир! don't\n"
) * 6
SPECIAL = ["<|begin|>", "<|finish|>", "<|turn|>"]
LLAMA_2_SPECIAL = ["<unk>", "<s>", "</s>"]
ALPHABET = list("abcdefghijklmnopqrstuvwxyz")


def byte_level(shape: str, size: int = 420):  # type: ignore[no-untyped-def]
    """A `tokenizers.Tokenizer` of the shape gpt-2, smollm or llama-3."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from slim.formats.tokenizer_json import LLAMA_3_PATTERN

    tokenizer = Tokenizer(models.BPE(ignore_merges=shape == "llama-3"))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=shape != "llama-3")
    first = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "llama-3": [pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), "isolated", invert=False)],
    }[shape]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, words]) if first else words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def llama_2(metaspace: bool = False, size: int = 420):  # type: ignore[no-untyped-def]
    """A `tokenizers.Tokenizer` like that of Llama 2: all 256 bytes, and every pair that makes a token is a merge."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=size - 259, show_progress=False)
    learner.train_from_iterator([" " + TEXT.replace("\n", " ").replace("😀", "")], trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    names = [*LLAMA_2_SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    made = [piece for piece in pieces if len(piece) > 1]
    pieces = [*names, *made, *(piece for piece in pieces if len(piece) == 1)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:at], piece[at:])
        for piece in made
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in LLAMA_2_SPECIAL])
    return tokenizer


SHAPES = {
    "gpt-2": lambda: byte_level("gpt-2"),
    "smollm": lambda: byte_level("smollm"),
    "llama-3": lambda: byte_level("llama-3"),
    "llama-2": llama_2,
    "llama-2 metaspace": lambda: llama_2(metaspace=True),
}
START_AND_END = {"llama-2": (1, 2), "llama-2 metaspace": (1, 2)}  # the others: 0 and 1


def saved(shape: str, folder: Path) -> Path:
    """The tokenizer.json of a shape in a folder."""
    path = folder / "tokenizer.json"
    SHAPES[shape]().save(str(path))
    return path


def hostile_strings(count: int, seed: int = 1) -> list[str]:
    """Texts of all kinds of characters, and pieces of an ordinary one."""
    dice = random.Random(seed)
    parts = [
        *("👩\u200d👧", "🏳️\u200d🌈", "😀", "\r\n", "\n", "\r", "\0", "\x1b[31m", "\t", " ", "  ", "   "),
        *("'s", "'S", "'LL", "'ſ", "’s", "'", "\u00a0", "\u2028", "\u3000", "\x85", "\x1c", "▁", "\ufeff"),
        *("<s>", "<|end|>", "<0x41>", "<|begin|>", "é", "e\u0301", "漢字", "Привет", "١٢٣", "½", "²", "1234567"),
        *("hello", " hello", " Once", "fox.", "isn't", "!!!", " ...", "-", "_", "\u200b", "\u00ad", "İ", "ß"),
    ]  # fmt: skip

    def point() -> str:
        while True:
            code = dice.randrange(0x110000) if dice.random() < 0.5 else dice.randrange(0x3000)
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def piece() -> str:
        kind = dice.random()
        if kind < 0.45:
            return dice.choice(parts)
        if kind < 0.75:
            return point()
        at = dice.randrange(len(TEXT))
        return TEXT[at : at + dice.randrange(1, 12)]

    return ["".join(piece() for _ in range(dice.randrange(1, 14))) for _ in range(count)]
