"""The pipeline: shapes in and out, images and videos alike, and the same numbers however inputs are given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import omnivl
from omnivl.data.media import BadSample
from omnivl.inference.pipeline import Answer, Caption, Label, Match, Pipeline
from omnivl.prompts import fill, label_prompts
from tests.helpers import mini_folder, mini_model, moving_gif, picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return omnivl.load(mini_folder(tmp_path_factory.mktemp("model")), device="cpu")


def test_one_in_one_out_and_a_list_in_a_list_out(model: Pipeline, tmp_path: Path) -> None:
    image, clip = picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")
    assert model.embed(image).shape == (16,)
    assert model.embed([image]).shape == (1, 16)
    assert model.embed([image, clip]).shape == (2, 16)
    assert model.embed_text("a red circle").shape == (16,)
    assert model.embed_text(["a", "b", "c"]).shape == (3, 16)
    assert isinstance(model.caption(image), Caption) and isinstance(model.match(image, "a"), Match)
    captions = model.caption([clip, image])
    assert len(captions) == 2
    assert captions[1].times is None and len(captions[0].times) == 4


def test_vectors_are_float32_of_unit_length(model: Pipeline, tmp_path: Path) -> None:
    for vectors in (
        model.embed([picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")]),
        model.embed_text(["a red circle", ""]),
    ):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_bfloat16_gives_nearly_the_same_vectors_and_every_verb_takes_it(model: Pipeline, tmp_path: Path) -> None:
    half = omnivl.load(model.folder or "", device="cpu", precision="bf16")
    media = [picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")]
    for act in (lambda m: m.embed(media), lambda m: m.embed_text(["a red circle", "a"])):
        vectors, expected = act(half), act(model)
        assert vectors.dtype == np.float32 and (vectors != expected).any()
        assert ((vectors * expected).sum(1) > 0.999).all()
    assert [m.score for m in half.match(media, "a")] == pytest.approx(
        [m.score for m in model.match(media, "a")], abs=0.02
    )
    assert all(isinstance(each, Caption) for each in half.caption(media))
    assert {label.text for label in half.classify(media[0], ["a", "b"])} == {"a", "b"}
    assert isinstance(half.answer(media[0], "what?"), Answer)
    with pytest.raises(ValueError, match=r"^precision is 'int4', wanted auto, fp32, bf16$"):
        omnivl.load(model.folder or "", device="cpu", precision="int4")  # type: ignore[arg-type]


def test_path_pil_and_array_of_the_same_picture_give_the_same_vector(model: Pipeline, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    image = Image.open(path)
    expected = model.embed(path)
    for other in (str(path), image, np.asarray(image)):
        np.testing.assert_array_equal(model.embed(other), expected)


def test_order_is_kept_and_neighbours_do_not_matter(model: Pipeline, tmp_path: Path) -> None:
    media = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    clips = [moving_gif(tmp_path / f"{i}.gif", i) for i in range(2)]
    mixed = [media[0], clips[0], media[1], clips[1], media[2]]
    together = model.embed(mixed)
    for row, one in zip(together, mixed, strict=True):
        np.testing.assert_allclose(model.embed(one), row, atol=1e-6)


def test_an_array_of_frames_is_sampled_at_the_centres_of_equal_spans(model: Pipeline) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(model.embed(frames), model.embed(frames[[1, 3, 5, 7]]))


def test_match_pairs_lists_and_broadcasts_one(model: Pipeline, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")
    pairs = model.match([a, b], ["a red circle", "a blue star"])
    alone = model.match(a, "a red circle"), model.match(b, "a blue star")
    assert [match.score for match in pairs] == pytest.approx([match.score for match in alone])
    assert [match.times for match in pairs] == [match.times for match in alone]
    assert model.match(a, ["x", "a red circle"])[1].score == pytest.approx(pairs[0].score)
    assert model.match([a, b], "a blue star")[1].score == pytest.approx(pairs[1].score)
    assert all(0 <= m.score <= 1 for m in pairs)
    with pytest.raises(ValueError, match="2 media and 3 texts"):
        model.match([a, b], ["x", "y", "z"])


def test_answers_are_chosen_or_written_for_pairs(model: Pipeline, tmp_path: Path) -> None:
    image, clip = picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")
    one = model.answer(image, "what is it?", ["a star", "a ring", "a cross"])
    assert isinstance(one, Answer) and one.times is None
    assert one.alternatives[0] == Label(one.text, one.score) and len(one.alternatives) == 3
    assert sum(other.score for other in one.alternatives) == pytest.approx(1.0)
    both = model.answer([image, clip], "what is it?", ["a star", "a ring", "a cross"])
    assert both[0] == one and both[1].times is not None and len(both[1].times) == 4
    paired = model.answer([image, clip], ["what is it?", "how does it move?"])
    assert len(paired) == 2 and all(0 < answer.score < 1 for answer in paired)
    asked = [f"what is it {'now ' * i}?" for i in range(40)]  # more than one batch, of several lengths
    for choices in (["a star", "a ring", "a cross"], None):
        for answer, question in zip(model.answer(image, asked, choices), asked, strict=True):
            alone = model.answer(image, question, choices)
            assert answer.text == alone.text and answer.score == pytest.approx(alone.score, rel=1e-4)
    with pytest.raises(ValueError, match="question 39 is empty"):
        model.answer(image, [*asked[:39], " "])
    assert len(model.answer(image, ["what?", "where?", "who?"])) == 3
    with pytest.raises(ValueError, match="1 media and 2 questions"):
        model.answer([image], ["a?", "b?"])
    with pytest.raises(ValueError, match="at least two different answers"):
        model.answer(image, "what?", ["one"])
    with pytest.raises(ValueError, match="is empty"):
        model.answer(image, " ")


def test_an_answer_is_the_ranking_of_the_model_underneath(model: Pipeline, tmp_path: Path) -> None:
    image, choices = picture(tmp_path / "a.png"), ["red", "moves left", "a big blue star"]
    frames = torch.from_numpy(model.read(image).frames).permute(0, 3, 1, 2)[None]
    ids, mask = model.tokenizer(["what is it?"])
    ids[:, 0] = model.tokenizer.enc_id
    with torch.inference_mode():
        states = model.model.match_states(ids, mask, model.model.encode_visual(frames).tokens)
        sums = []
        for choice in choices:
            said = model.tokenizer([choice])[0]
            said[:, 0] = model.tokenizer.dec_id
            scores = model.model.decode(said, None, states)[0].log_softmax(1)
            sums.append(sum(float(scores[i, token]) for i, token in enumerate(said[0, 1:])))
    expected = dict(zip(choices, torch.tensor(sums).softmax(0).tolist(), strict=True))
    found = model.answer(image, "what is it?", choices)
    assert {other.text: other.score for other in found.alternatives} == pytest.approx(expected, rel=1e-4)


def test_labels_are_embedded_by_the_prompts_of_the_media_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Pipeline(*mini_model())
    image, clip = picture(tmp_path / "a.png"), moving_gif(tmp_path / "a.gif")
    expected = model.classify([image, clip], ["star", "ring"])
    texts: list[str] = []
    embed_text = model.embed_text

    def noting(given: list[str]) -> np.ndarray:
        texts.extend(given)
        return embed_text(given)

    monkeypatch.setattr(model, "embed_text", noting)
    assert model.classify(image, ["star", "ring"]) == expected[0]
    assert sorted(texts) == sorted(fill(p, name) for p in label_prompts("image") for name in ("star", "ring"))
    texts.clear()
    assert model.classify(clip, ["star", "ring"]) == expected[1]
    assert sorted(texts) == sorted(fill(p, name) for p in label_prompts("video") for name in ("star", "ring"))


def test_classes_are_told_by_prompts_or_by_a_finetuned_classifier(tmp_path: Path) -> None:
    network, tokenizer = mini_model()
    model = Pipeline(network, tokenizer)
    image = picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no classifier of its own"):
        model.classify(image)
    with pytest.raises(ValueError, match="at least two labels"):
        model.classify(image, ["cat"])
    found = model.classify(image, ["star", "ring", "cross"])
    assert {label.text for label in found} == {"star", "ring", "cross"}
    assert [label.score for label in found] == sorted((label.score for label in found), reverse=True)
    vectors = {
        name: model.embed_text([fill(prompt, name) for prompt in label_prompts("image")]).mean(0)
        for name in ("star", "ring", "cross")
    }
    cosines = torch.tensor([model.embed(image) @ (v / np.linalg.norm(v)) for v in vectors.values()])
    expected = dict(zip(vectors, (cosines / network.temperature.detach()).softmax(0).tolist(), strict=True))
    assert {label.text: label.score for label in found} == pytest.approx(expected, rel=1e-4)
    both = model.classify([image, image], ["star", "ring", "cross"])
    assert [[label.text for label in own] for own in both] == [[label.text for label in found]] * 2
    head = network.add_classifier(["yes", "no"])
    frames = torch.from_numpy(model.read(image).frames).permute(0, 3, 1, 2)[None]
    with torch.inference_mode():
        told = head(network.encode_visual(frames).pooled).softmax(1)[0].tolist()
    own = {label.text: label.score for label in model.classify(image)}
    assert own == pytest.approx(dict(zip(("yes", "no"), told, strict=True)), rel=1e-4)
    assert {label.text: label.score for label in model.classify(image, zero_shot=True)} != pytest.approx(own)


def test_match_equals_the_model_underneath(model: Pipeline, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", size=(32, 32))
    pixels = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None, None]
    ids, mask = model.tokenizer(["a red circle"])
    ids[:, 0] = model.tokenizer.enc_id
    with torch.inference_mode():
        logits = model.model.match(ids, mask, model.model.encode_visual(pixels).tokens)
    assert model.match(path, "a red circle").score == pytest.approx(float(logits.softmax(1)[0, 1]), abs=1e-6)


def test_a_saved_pipeline_loads_to_the_same_answers(model: Pipeline, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    again = Pipeline.from_pretrained(tmp_path / "copy", device="cpu")
    path = picture(tmp_path / "a.png")
    np.testing.assert_array_equal(again.embed(path), model.embed(path))
    assert again.caption(path) == model.caption(path)
    names = {file.name for file in (tmp_path / "copy").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "tokenizer.json",
        "preprocessor_config.json",
        "README.md",
    } <= names


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((3, 32, 32), np.uint8), "shape \\(3, 32, 32\\)"),
        (np.zeros((32, 32, 3), np.float32), "float32"),
        (np.zeros((0, 32, 32, 3), np.uint8), "shape \\(0"),
    ],
)
def test_arrays_of_another_kind_are_refused_in_one_sentence(model: Pipeline, array: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        model.embed(array)


def test_pictures_without_pixels_and_texts_that_are_none_are_refused(model: Pipeline) -> None:
    with pytest.raises(ValueError, match="must have pixels, got one of 0 x 5"):
        model.embed(Image.new("RGB", (0, 5)))
    with pytest.raises(ValueError, match="texts must be strings, got None"):
        model.embed_text(["a", None])  # type: ignore[list-item]


def test_grey_and_transparent_arrays_are_seen_as_pictures_of_them_are(model: Pipeline) -> None:
    rng = np.random.default_rng(0)
    grey, clear = rng.integers(0, 256, (20, 30), np.uint8), rng.integers(0, 256, (20, 30, 4), np.uint8)
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(model.read(array).frames, model.read(Image.fromarray(grey)).frames)
    np.testing.assert_allclose(model.read(clear).frames, model.read(Image.fromarray(clear)).frames, atol=1)
    for frames in (np.stack([grey] * 6)[..., None], np.stack([clear] * 6)):
        film, still = model.read(frames), model.read(frames[0])
        assert film.medium == "video" and len(film.frames) == 4
        np.testing.assert_array_equal(film.frames[1], still.frames[0])


def test_what_cannot_be_read_is_named(model: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for name in ("empty.jpg", "missing.jpg"):
        with pytest.raises(BadSample, match=name):
            model.caption(tmp_path / name)
    with pytest.raises(ValueError, match="got int"):
        model.embed(3)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        omnivl.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no config\.json"):
        omnivl.load(tmp_path)


def test_a_folder_whose_files_are_not_what_they_should_be_is_refused(tmp_path: Path) -> None:
    folder = mini_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())

    def of(part: str, **values: Any) -> dict[str, Any]:
        return {**config, "model": {**config["model"], part: {**config["model"][part], **values}}}

    flat = {**config, "model": {**config["model"], "std": [0.0, 0.5, 0.5]}}
    for name, value, told in (
        ("config.json", 5, r"config\.json is not the config of an omnivl model"),
        ("config.json", {**config, "labels": 5}, r'config\.json has 5 as "labels", wanted a list of texts'),
        ("config.json", {**config, "labels": [1, 2]}, 'as "labels", wanted a list of texts'),
        ("config.json", of("vision", heads=0), r"model\.vision\.heads is 0, wanted 1 or more"),
        ("config.json", of("vision", patch_size=0), r"model\.vision\.patch_size is 0, wanted 1 or more"),
        ("config.json", of("text", heads=-2), r"model\.text\.heads is -2, wanted 1 or more"),
        ("config.json", flat, r"model\.std \(0\.0, 0\.5, 0\.5\): all must be above 0"),
        ("preprocessor_config.json", [], r"preprocessor_config\.json must hold a JSON object, got list"),
    ):
        (folder / "config.json").write_text(json.dumps(config))
        (folder / name).write_text(json.dumps(value))
        with pytest.raises(ValueError, match=told):
            omnivl.load(folder, device="cpu")


def test_a_text_is_never_read_letter_by_letter(model: Pipeline, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="labels must be a list of names, got the text 'star,ring'"):
        model.classify(path, "star,ring")
    with pytest.raises(ValueError, match="choices must be a list of answers, got the text 'red'"):
        model.answer(path, "what colour?", choices="red")


def test_nothing_in_nothing_out(model: Pipeline) -> None:
    assert model.embed([]).shape == model.embed_text([]).shape == (0, model.config.embed_dim)
    assert model.caption([]) == []


def test_preprocessing_that_contradicts_the_config_is_refused(tmp_path: Path) -> None:
    path = mini_folder(tmp_path / "m") / "preprocessor_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(ValueError, match=r"says image_mean .*make them say the same"):
        omnivl.load(tmp_path / "m", device="cpu")


@pytest.mark.parametrize("verb", ["embed", "caption"])
def test_batches_are_halved_until_there_is_room_and_stay_so(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = omnivl.load(mini_folder(tmp_path / "mini"), device="cpu")
    pictures = [np.full((8, 8, 3), 5 * i, np.uint8) for i in range(50)]
    method = "embed_visual" if verb == "embed" else "encode_visual"
    expected, sizes, encode = getattr(pipeline, verb)(pictures), list[int](), getattr(pipeline.model, method)

    def small_device(pixels: torch.Tensor) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(pixels)

    monkeypatch.setattr(pipeline.model, method, small_device)
    for found in (getattr(pipeline, verb)(pictures), getattr(pipeline, verb)(pictures)):
        if verb == "embed":
            np.testing.assert_allclose(found, expected, atol=1e-5)
        else:
            assert [caption.text for caption in found] == [caption.text for caption in expected]
    assert sizes == [32, 16, *[8] * 6, 2, *[8] * 6, 2], "found once"
    assert [record.args[1:] for record in caplog.records if record.args] == [(32, "image", 16), (16, "image", 8)]  # type: ignore[index]


def test_no_room_for_one_is_told(model: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(pixels: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model.model, "embed_visual", full)
    monkeypatch.setattr(model.forward, "batch", dict(model.forward.batch))
    with pytest.raises(ValueError, match="no room for this model and one image"):
        model.embed([np.zeros((8, 8, 3), np.uint8)] * 3)


def precision(pipeline: Pipeline, half: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    monkeypatch.setattr(pipeline.forward, "half", half)
    media = [picture(tmp_path / "a.png", 1), moving_gif(tmp_path / "a.gif")]
    rows = [pipeline.embed(media), pipeline.embed_text(["a red circle"])]
    pipeline.caption(media), pipeline.answer(media, "what?", ["a", "b"])
    labels = {label.text: label.score for label in pipeline.classify(media[0], ["star", "ring"])}
    return [*rows, labels["star"], pipeline.match(media[0], "a red circle").score]


def test_half_precision_tells_nearly_the_same(model: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a CPU has of it; a GPU's is below."""
    assert model.forward.half is None, "a CPU computes in float32"
    whole = precision(model, None, tmp_path, monkeypatch)
    half = precision(model, torch.bfloat16, tmp_path, monkeypatch)
    assert half[0].dtype == np.float32 and not np.array_equal(half[0], whole[0])
    for one, other in zip(whole, half, strict=True):
        np.testing.assert_allclose(one, other, atol=0.03)


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision(model: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = precision(model, None, tmp_path, monkeypatch)
    device = omnivl.load(mini_folder(tmp_path / "mini"), device="cuda")
    assert device.forward.half is torch.float16
    for one, other in zip(here, precision(device, torch.float16, tmp_path, monkeypatch), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)
