"""WordPiece text to token ids and back: BERT's lower-casing tokenizer with the two tokens that OmniVL adds.

The text side starts from BERT (paper, section 3.1), so a text becomes `[CLS] pieces [SEP]`. `[DEC]` starts what the
generation decoder writes and `[ENC]` what the alignment decoder reads; they stand after the base vocabulary, which for
BERT's 30,522 entries makes them 30522 and 30523, as in BLIP's checkpoints. The work is done by the library
`tokenizers`. Axes: B texts, L tokens. This room knows no model: putting `[ENC]` or `[DEC]` where `[CLS]` stands is a
task's business.
"""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

# Read by the library at each use. Loader workers fork after the first, where its threads would warn and turn off
# anyway.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BASE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ADDED_SPECIALS = ("[DEC]", "[ENC]")
MAX_WORD_CHARACTERS = 100  # a longer word is [UNK], as in BERT

# What a writer would put without a space, in the order in which it is joined.
JOINS = (
    (re.compile(r"(?<=\d) ([.,:/]) (?=\d)"), r"\1"),  # 3 . 5, 10 : 30
    (re.compile(r"(?<=\w) (['’-]) (?=\w)"), r"\1"),  # dog ' s, t - shirt
    (re.compile(r" (?=[.,!?;:%)\]}])"), ""),  # closing marks lean left
    (re.compile(r"(?<=[(\[{$#]) "), ""),  # opening marks lean right
)


class Tokenizer:
    """Texts to padded ids and back. `vocab[i]` is the token of id i; `[DEC]` and `[ENC]` are appended where absent.

    Attributes: `pad_id`, `unk_id`, `cls_id`, `sep_id`, `mask_id`, `dec_id`, `enc_id`, `special_ids` (all seven),
    `vocab` (the tokens in the order of their ids) and `vocab_size` (its length, the added tokens included).
    Raises ValueError where a special token is missing or a token stands twice.
    """

    def __init__(self, vocab: Sequence[str]) -> None:
        ids = {token: number for number, token in enumerate(vocab)}
        if missing := [token for token in BASE_SPECIALS if token not in ids]:
            raise ValueError(
                f"this vocabulary of {len(vocab)} tokens lacks {', '.join(missing)}: "
                "give a BERT vocab.txt, one token a line"
            )
        if len(ids) != len(vocab):
            twice = next(token for token, count in Counter(vocab).items() if count > 1)
            raise ValueError(f"this vocabulary holds {twice!r} more than once: every token must have one id")
        for token in ADDED_SPECIALS:
            ids.setdefault(token, len(ids))
        self.vocab = tuple(ids)
        self.vocab_size = len(ids)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in BASE_SPECIALS)
        self.dec_id, self.enc_id = (ids[token] for token in ADDED_SPECIALS)
        self.special_ids = tuple(ids[token] for token in BASE_SPECIALS + ADDED_SPECIALS)
        self._backend = build_backend(ids)
        # A user's text is text: "[SEP]" written in a caption must not end it.
        self._backend.encode_special_tokens = True

    # --- where a vocabulary comes from ---

    @classmethod
    def from_vocab(cls, path: Path | str) -> "Tokenizer":
        """From a vocab.txt: one token a line, its id is the line's number from 0. Raises FileNotFoundError,
        ValueError."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such vocabulary file; give a BERT vocab.txt")
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a UTF-8 text file ({error.reason}); give a BERT vocab.txt") from None
        while lines and not lines[-1]:
            lines.pop()
        try:
            return cls(lines)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Tokenizer":
        """From a model folder: its vocab.txt, or its tokenizer.json where there is none.

        Raises FileNotFoundError where it has neither, ValueError where it is no lower-casing WordPiece tokenizer.
        """
        folder = Path(folder)
        settings = folder / "tokenizer_config.json"
        if settings.is_file() and not read_table(settings).get("do_lower_case", True):
            raise ValueError(f"{folder} holds a tokenizer that keeps capitals; omnivl reads lower-casing ones alone")
        if (folder / "vocab.txt").is_file():
            return cls.from_vocab(folder / "vocab.txt")
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} has no vocab.txt and no tokenizer.json; give a model folder with one of them"
            )
        stored = read_table(file)
        model = stored.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if kind != "WordPiece":
            raise ValueError(f"{file} holds a tokenizer of the type {kind}; omnivl reads WordPiece alone")
        try:
            added = {token["content"]: token["id"] for token in stored.get("added_tokens", [])}
            ids = {**stored["model"]["vocab"], **added}
            numbers = sorted(ids.values())
        except (KeyError, TypeError):
            raise ValueError(
                f"{file}: its vocabulary must be a table of tokens and their ids, and each of its added tokens have a "
                "content and an id"
            ) from None
        if numbers != list(range(len(ids))) or not all(isinstance(token, str) for token in ids):
            raise ValueError(f"{file}: its ids are not the numbers from 0 to {len(ids) - 1}, each once")
        return cls(sorted(ids, key=ids.__getitem__))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 1000) -> "Tokenizer":
        """Learn a vocabulary of at most `vocab_size` tokens, the special ones included; the same texts in any order
        give the same one. Characters that are too rare for it become [UNK]. Raises ValueError where it is too small."""
        smallest = len(BASE_SPECIALS + ADDED_SPECIALS) + 4
        if vocab_size < smallest:
            raise ValueError(f"a vocabulary of {vocab_size} tokens is too small: give at least {smallest}")
        texts = [clean(text) for text in texts]
        backend = build_backend({token: number for number, token in enumerate(BASE_SPECIALS)})
        assert backend.normalizer is not None
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(backend.normalizer.normalize_str(text))
        # Each character may stand alone or within a word ("##"), so a quarter of the room goes to half of the tokens.
        # The library numbers these pieces in the random order of its hash tables and breaks ties by number:
        # handing them over in a fixed order as "special" is what makes its training deterministic.
        limit = (vocab_size - len(BASE_SPECIALS + ADDED_SPECIALS)) // 4
        characters = [character for character in counts if not character.isspace()]
        alphabet = sorted(sorted(characters, key=lambda character: (-counts[character], character))[:limit])
        inside = [f"##{character}" for character in alphabet if character not in string.punctuation]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size - len(ADDED_SPECIALS),
            special_tokens=[*BASE_SPECIALS, *alphabet, *inside],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        ids = backend.get_vocab()
        return cls(sorted(ids, key=ids.__getitem__))

    def save(self, folder: Path | str) -> None:
        """Write vocab.txt, tokenizer.json and tokenizer_config.json, which transformers' BertTokenizer reads as
        well."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in self.vocab), encoding="utf-8", newline="\n")
        self._backend.save(str(folder / "tokenizer.json"))
        named = {f"{token[1:-1].lower()}_token": token for token in BASE_SPECIALS}
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            **named,
            "bos_token": "[DEC]",
            "additional_special_tokens": ["[ENC]"],
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    # --- texts to ids and back ---

    def __call__(self, texts: Sequence[str] | str, max_tokens: int = 40) -> tuple[Tensor, Tensor]:
        """Ids and mask of texts, both (B, L) int64, L the longest of them and at most `max_tokens`.

        Each row is `[CLS] pieces [SEP]`, then [PAD] where the mask is 0. A text that is too long is cut between two
        pieces and keeps its [SEP]. One string is a list of one. Raises ValueError where max_tokens is under 2.
        """
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}, but [CLS] and [SEP] alone take 2: give 2 or more")
        listed = [clean(text) for text in ([texts] if isinstance(texts, str) else texts)]
        encoded = self._backend.encode_batch_fast(listed, add_special_tokens=False)
        rows = [[self.cls_id, *item.ids[: max_tokens - 2], self.sep_id] for item in encoded]
        length = max((len(row) for row in rows), default=2)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids, mask

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """One text of ids (L,): special tokens left out, pieces joined into words, punctuation spaced as one writes."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        pieces = [self.vocab[number] for number in numbers if number not in self.special_ids]
        text = " ".join(pieces).replace(" ##", "").removeprefix("##")
        for pattern, joined in JOINS:
            text = pattern.sub(joined, text)
        return text

    # The library's own state would forget that special tokens in a text are text.
    def __getstate__(self) -> dict[str, tuple[str, ...]]:
        return {"vocab": self.vocab}

    def __setstate__(self, state: dict[str, tuple[str, ...]]) -> None:
        self.__init__(state["vocab"])  # type: ignore[misc]


def build_backend(ids: dict[str, int]) -> tokenizers.Tokenizer:
    """The library's tokenizer as BERT (uncased) sets it up, over token -> id."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    backend.add_special_tokens([token for token in BASE_SPECIALS + ADDED_SPECIALS if token in ids])
    return backend


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError where it holds none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(table).__name__}")
    return table


def clean(text: str) -> str:
    """Half a character (a lone surrogate, left by a cut in another program) becomes a replacement character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
