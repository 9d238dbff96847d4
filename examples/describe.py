"""Describe, match and search pictures and clips with a trained model.

python examples/describe.py runs/demo/model picture.jpg clip.mp4
"""

import sys

import omnivl


def main(folder: str, *media: str) -> None:
    model = omnivl.load(folder)
    for path, caption in zip(media, model.caption(list(media)), strict=True):
        seen = "" if caption.times is None else f" (looked at {', '.join(f'{t:.2f}' for t in caption.times)} s)"
        print(f"{path}: {caption.text}{seen}")

    texts = ["a big red circle on a black ground lies left", "a blue star on a white ground moves up"]
    similarity = model.embed(list(media)) @ model.embed_text(texts).T  # cosines, (media, texts)
    for text, column in zip(texts, similarity.T, strict=True):
        best = int(column.argmax())
        probability = model.match(media[best], text).score
        print(f"{text!r}: {media[best]}, cosine {column[best]:.2f}, match {probability:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
