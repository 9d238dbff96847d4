"""Files of predictions scored without a model: the numbers by hand, and what is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from omnivl.cli import main
from omnivl.metrics import captions


def coco(path: Path, split: str = "test") -> str:
    """Two pictures that are not there, with two captions and one."""
    said = {7: ["a red star", "the star"], 9: ["two dogs run"]}
    images = [
        {"filename": f"{n}.jpg", "split": split, "cocoid": n, "imgid": n, "sentences": [{"raw": t} for t in texts]}
        for n, texts in said.items()
    ]
    path.write_text(json.dumps({"images": images}))
    return f"coco:{path}"


def vqa(folder: Path) -> str:
    """Three questions: ten annotators who agree, ten who do not, and a number."""
    answers = {1: ["yes"] * 10, 2: ["red"] * 3 + ["blue"] * 7, 3: ["2"] * 10}
    kinds = {1: "yes/no", 2: "other", 3: "number"}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({"questions": [{"image_id": n % 2, "question": f"q{n}?", "question_id": n} for n in answers]})
    )
    given = [
        {"question_id": n, "answer_type": kinds[n], "answers": [{"answer": text} for text in texts]}
        for n, texts in answers.items()
    ]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": given}))
    return f"vqav2:{folder}"


def score(tmp_path: Path, data: str, task: str, predictions: Any, *more: str) -> int:
    file = tmp_path / "predictions.json"
    file.write_text(predictions if isinstance(predictions, str) else json.dumps(predictions))
    words = ["--task", task, "--data", data, "--score", str(file), "--out", str(tmp_path / "results.json"), *more]
    return main(["evaluate", *words])


def values(tmp_path: Path) -> dict[str, float]:
    listed = json.loads((tmp_path / "results.json").read_text())["results"]
    assert all(row["settings"]["predictions"] == "predictions.json" and row["settings"]["bad"] == 0 for row in listed)
    return {f"{row['metric']} {row['settings'].get('answer_type', '')}".strip(): row["value"] for row in listed}


def test_answers_have_the_accuracy_of_their_annotators(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "answer": "Yes."}, {"question_id": "2", "answer": "red"}]
    rows.append({"question_id": 3, "answer": "two"})
    assert score(tmp_path, vqa(tmp_path), "answer", rows, "--split", "validation") == 0
    found = values(tmp_path)
    # of the ten ways to leave one annotator out, three leave two who said red, seven leave three
    red = (3 * 2 / 3 + 7) / 10
    assert found["vqa_accuracy other"] == pytest.approx(red)
    assert (found["vqa_accuracy yes/no"], found["vqa_accuracy number"]) == (1.0, 1.0)
    assert found["vqa_accuracy all"] == pytest.approx((2 + red) / 3, abs=1e-6)


def test_captions_are_scored_beside_all_of_their_own_and_an_empty_one_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(captions, "missing", lambda: "it needs Java")
    rows = [{"image_id": 9, "caption": ""}, {"image_id": 7, "caption": "The star!"}]
    assert score(tmp_path, coco(tmp_path / "c.json"), "caption", rows) == 0
    found = values(tmp_path)
    assert found["exact"] == 0.5 and found["token_f1"] == 0.5 and found["cider"] is None
    assert (
        "omnivl: not run: bleu1, bleu2, bleu3, bleu4, meteor, rouge_l, cider: it needs Java" in capsys.readouterr().err
    )


GOOD = [{"image_id": 7, "caption": "a"}, {"image_id": 9, "caption": "b"}]


@pytest.mark.parametrize(
    ("predictions", "sentence"),
    [
        ([*GOOD, {"image_id": 8, "caption": "a"}], "1 of 3 predictions for ids that split 'test' of coco:"),
        ([*GOOD, {"image_id": "7", "caption": "c"}], "has two predictions for image_id 7: keep one"),
        (GOOD[:1], "has no prediction for 1 of the 2 ids of split 'test' of coco:"),
        ([], "has no prediction for 2 of the 2 ids"),
        ({"image_id": 7}, 'must hold a JSON list of {"image_id": ..., "caption": ...}'),
        ([{"image_id": 7, "answer": "a"}], 'entry 0: wanted "image_id", a number or a name, and "caption", a text'),
        ([{"image_id": 7, "caption": ["a"]}], "entry 0: wanted"),
        ([{"image_id": True, "caption": "a"}], "entry 0: wanted"),
        ("{", "predictions.json"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], predictions: Any, sentence: str
) -> None:
    assert score(tmp_path, coco(tmp_path / "c.json"), "caption", predictions) == 2
    refused(capsys, sentence)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("task", "more", "sentence"),
    [
        ("caption", ("--split", "validation"), "holds no items of split 'validation': 2 of split 'test'"),
        ("answer", (), "has no answers of split 'test' to score by"),
        ("retrieval", (), "a file of predictions is scored for one task: --task caption or --task answer"),
        ("caption", ("--task", "answer"), "a file of predictions is scored for one task"),
        ("caption", ("--predictions", "x"), "leave --predictions out"),
        ("caption", ("runs/model",), "--score reads predictions that are there: leave a model out"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, more: tuple[str, ...], sentence: str
) -> None:
    rows = [{"question_id": 1, "answer": "a"}] if task == "answer" else GOOD
    assert score(tmp_path, coco(tmp_path / "c.json"), task, rows, *more) == 2
    refused(capsys, sentence)


def test_questions_that_no_file_can_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "my.jsonl"
    rows = [{"media": "a.jpg", "question": f"q{n}?", "answer": "yes"} for n in range(2)]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score(tmp_path, f"manifest:{listed}", "answer", [{"question_id": "", "answer": "yes"}]) == 2
    refused(capsys, "has 2 questions without an id")
    listed.write_text("".join(json.dumps(row | {"id": "7"}) + "\n" for row in rows))
    assert score(tmp_path, f"manifest:{listed}", "answer", [{"question_id": 7, "answer": "yes"}]) == 2
    refused(capsys, "has 1 ids twice (first: '7')")


def refused(capsys: pytest.CaptureFixture[str], sentence: str) -> None:
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and last.startswith("omnivl: ") and sentence in last and "Traceback" not in err
