"""The tokenizer against Hugging Face's BERT tokenizer, and what a text must survive: cuts, other scripts, processes."""

import json
import multiprocessing
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from omnivl.tokenizer import ADDED_SPECIALS, BASE_SPECIALS, Tokenizer

CORPUS = [
    "A small red circle moves left over the grey ground.",
    "the dog's blue t-shirt, torn: 3.5 metres long!",
    "two green triangles (one large) turn slowly",
    "Überraschung im Café, naïve façade",
    "a woman is playing the guitar; someone sings",
]
TEXTS = [
    *CORPUS,
    "unseen words: zebra, xylophone",
    "  spaces\tand\nlines \u00a0 everywhere  ",
    "红色的猫 und кошка и 👍🏽 smile 😀",
    "control \x00 characters \ufffd \u200d",
    "",
    "a" * 101,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS * 3, vocab_size=200)


def test_ids_and_masks_are_those_of_hugging_face(tokenizer: Tokenizer) -> None:
    from transformers import BertTokenizerFast

    other = BertTokenizerFast(vocab={token: i for i, token in enumerate(tokenizer.vocab)})
    for limit in (40, 9, 3):
        want = other(TEXTS, padding="longest", truncation=True, max_length=limit, return_tensors="pt")
        ids, mask = tokenizer(TEXTS, max_tokens=limit)
        assert torch.equal(ids, want["input_ids"])
        assert torch.equal(mask, want["attention_mask"])
        assert ids.dtype == mask.dtype == torch.int64


def test_a_saved_folder_reads_the_same_here_and_with_hugging_face(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    ids, _ = tokenizer(TEXTS)
    assert torch.equal(
        AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")["input_ids"], ids
    )
    assert torch.equal(Tokenizer.from_folder(tmp_path)(TEXTS)[0], ids)
    (tmp_path / "vocab.txt").unlink()
    again = Tokenizer.from_folder(tmp_path)
    assert again.vocab == tokenizer.vocab
    assert torch.equal(again(TEXTS)[0], ids)


def test_each_row_starts_with_cls_ends_with_sep_and_is_padded_to_the_longest(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer(["red", "a small red circle"])
    assert ids.shape == mask.shape == (2, 6)
    assert mask.sum(1).tolist() == [3, 6]
    assert (ids[:, 0] == tokenizer.cls_id).all()
    assert [ids[0, 2], ids[1, 5]] == [tokenizer.sep_id, tokenizer.sep_id]
    assert (ids[0, 3:] == tokenizer.pad_id).all()


@pytest.mark.parametrize("limit", range(2, 14))
def test_a_long_text_of_any_script_is_cut_with_its_end_kept(tokenizer: Tokenizer, limit: int) -> None:
    ids, mask = tokenizer([text * 9 for text in TEXTS if text], max_tokens=limit)
    assert ids.shape[1] <= limit
    for row, length in zip(ids, mask.sum(1).tolist(), strict=True):
        assert row[length - 1] == tokenizer.sep_id
        tokenizer.decode(row).encode("utf-8")


def test_half_a_character_is_no_crash(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer(["red \ud83d circle", "red \udc4d"])
    assert tokenizer.decode(ids[0]) == "red circle"


def test_max_tokens_without_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="max_tokens is 1"):
        tokenizer(["red"], max_tokens=1)


def test_decoding_gives_back_what_a_person_would_write(tokenizer: Tokenizer) -> None:
    for text in CORPUS[:3]:
        assert tokenizer.decode(tokenizer([text])[0][0]) == text.lower()
    assert tokenizer.decode(tokenizer(["Café"])[0][0].tolist()) == "cafe"
    assert tokenizer.decode([]) == ""


def test_encoding_what_was_decoded_gives_the_same_ids(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    words = [word for text in CORPUS for word in text.split()]
    for _ in range(50):
        ids, _ = tokenizer([" ".join(rng.choices(words, k=8))])
        assert torch.equal(tokenizer([tokenizer.decode(ids[0])])[0], ids)


def test_special_tokens_written_in_a_text_are_text(tokenizer: Tokenizer) -> None:
    for copy in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        ids, _ = copy(["red [SEP] [DEC][PAD] circle [MASK]"])
        inner = set(ids[0, 1:-1].tolist()) - {tokenizer.unk_id}
        assert not inner & set(tokenizer.special_ids)


def test_dec_and_enc_stand_after_berts_30522_and_are_kept_where_they_are() -> None:
    words = [f"w{i}" for i in range(30522 - len(BASE_SPECIALS))]
    bert = Tokenizer([*BASE_SPECIALS, *words])
    assert (bert.dec_id, bert.enc_id, bert.vocab_size) == (30522, 30523, 30524)
    assert Tokenizer(bert.vocab).vocab == bert.vocab
    moved = Tokenizer([*ADDED_SPECIALS, *BASE_SPECIALS, "cat"])
    assert (moved.dec_id, moved.enc_id, moved.pad_id, moved.vocab_size) == (0, 1, 2, 8)


def test_the_ids_named_are_those_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    names = ("pad", "unk", "cls", "sep", "mask", "dec", "enc")
    ids = tuple(getattr(tokenizer, f"{name}_id") for name in names)
    assert [tokenizer.vocab[i] for i in ids] == [f"[{name.upper()}]" for name in names]
    assert tokenizer.special_ids == ids


def test_training_is_the_same_in_every_process_and_order_of_texts() -> None:
    code = f"from omnivl.tokenizer import Tokenizer\nprint(Tokenizer.train({CORPUS[::-1] * 2!r}, 150).vocab)"
    here = repr(Tokenizer.train(CORPUS * 2, 150).vocab)
    for _ in range(2):
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            == here
        )


def test_a_trained_vocabulary_keeps_to_its_size_and_knows_frequent_words_whole() -> None:
    small = Tokenizer.train(CORPUS, 40)
    assert small.vocab_size <= 40
    assert small.vocab[:5] == BASE_SPECIALS
    assert small.vocab[-2:] == ADDED_SPECIALS
    assert "circle" in Tokenizer.train(CORPUS, 400).vocab
    assert Tokenizer.train([], 20).vocab == (*BASE_SPECIALS, *ADDED_SPECIALS)
    with pytest.raises(ValueError, match="too small"):
        Tokenizer.train(CORPUS, 7)


def encode_elsewhere(tokenizer: Tokenizer) -> list[list[int]]:
    return tokenizer(TEXTS)[0].tolist()


def test_a_spawned_worker_encodes_the_same(tokenizer: Tokenizer) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(encode_elsewhere, (tokenizer,)) == tokenizer(TEXTS)[0].tolist()


def test_forking_after_use_says_nothing() -> None:
    code = (
        "import os; from omnivl.tokenizer import Tokenizer\n"
        f"t = Tokenizer.train({CORPUS!r}, 100); t({CORPUS!r})\n"
        f"pid = os.fork(); t({CORPUS!r}); pid and os.waitpid(pid, 0)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_vocabulary_file_survives_windows_and_byte_order_marks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(tokenizer.vocab).encode() + b"\r\n")
    assert Tokenizer.from_vocab(path).vocab == tokenizer.vocab


def test_what_is_no_vocabulary_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\ncat\n")
    with pytest.raises(ValueError, match=r"vocab\.txt.* lacks \[SEP\], \[MASK\]"):
        Tokenizer.from_vocab(path)
    path.write_text("\n".join([*BASE_SPECIALS, "cat", "cat"]))
    with pytest.raises(ValueError, match="'cat' more than once"):
        Tokenizer.from_vocab(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not a UTF-8"):
        Tokenizer.from_vocab(path)
    with pytest.raises(FileNotFoundError, match="no such vocabulary"):
        Tokenizer.from_vocab(tmp_path / "absent.txt")


def test_a_folder_without_a_lower_casing_word_piece_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no vocab\.txt and no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    with pytest.raises(ValueError, match="type BPE"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not JSON"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": null}')
    with pytest.raises(ValueError, match="type None"):
        Tokenizer.from_folder(tmp_path)
    model = {"type": "WordPiece", "vocab": {"a": 0}}
    for stored in (
        {"model": {**model, "vocab": []}},
        {"model": {**model, "vocab": {"a": "0", "b": 1}}},
        {"model": {"type": "WordPiece"}},
        {"model": model, "added_tokens": [{"id": 1}]},
        {"model": model, "added_tokens": 5},
        {"model": model, "added_tokens": ["[DEC]"]},
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
        with pytest.raises(
            ValueError, match=r"tokenizer\.json: its vocabulary must be a table of tokens and their ids"
        ):
            Tokenizer.from_folder(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    with pytest.raises(ValueError, match="keeps capitals"):
        Tokenizer.from_folder(tmp_path)


def test_one_string_is_a_list_of_one_and_no_text_is_no_row(tokenizer: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(tokenizer("red circle")[0], tokenizer(["red circle"])[0])
        assert tokenizer([])[0].shape == (0, 2)
