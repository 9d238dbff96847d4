"""Questions about the built-in world's pictures and clips, so that answering can be learnt and measured without a file
*(ours)*. Each has one answer, which the item's caption holds.
"""

from omnivl.data.sample import Question
from omnivl.data.shapes import SHAPES
from omnivl.data.world import COLOURS, EXTENTS, GROUNDS, PHRASES, PLACES, WorldItem

ALWAYS = {  # question -> what of a scene answers it
    "what shape is it?": "shape",
    "what colour is it?": "colour",
    "what colour is the ground?": "ground",
}
PLACE, EXTENT, MOTION = "where does it lie?", "how big is it?", "how does it move?"
QUESTIONS = (*ALWAYS, PLACE, EXTENT, MOTION)
ANSWERS = (*SHAPES, *COLOURS, *GROUNDS, *PLACES, *EXTENTS, *PHRASES.values())


def questions_about(item: WorldItem) -> tuple[Question, ...]:
    """All questions that the item answers: five of a picture, four of a clip."""
    answers = {question: getattr(item.scene, part) for question, part in ALWAYS.items()}
    if item.motion:
        answers[MOTION] = PHRASES[item.motion]
    else:
        words = item.caption.split()  # "a EXTENT COLOUR ... lies PLACE"
        answers |= {PLACE: words[-1], EXTENT: words[1]}
    return tuple(
        Question(question, ((answer, 1.0),), f"{item.key}/{number}", question.removesuffix("?"))
        for number, (question, answer) in enumerate(answers.items())
    )
