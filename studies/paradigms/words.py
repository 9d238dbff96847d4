"""What the page of the study calls things, what it measures, and what it says before any number."""

from studies.paradigms.numbers import CLIPS, PICTURES, REVERSE, SIBLINGS, Key, Measure, retrieval

OURS = "decoupled_joint"
TITLES = {
    OURS: "decoupled joint",
    "image_only": "image only",
    "video_only": "video only",
    "joint": "joint from scratch",
    "image_then_video": "image then video",
}
RIVALS = [name for name in TITLES if name != OURS]
ABOUT = {  # claim -> what the paper has, what is taken away
    "no_labels": ("Label data help", "without label data (captions alone)"),
    "infonce": ("UniVLC beats plain contrast", "plain InfoNCE: a sample's only positive is itself"),
    "random_temporal": ("Time should start from image weights", "temporal part at random instead"),
    "tubelet1": ("(ours) Patches of clips are two frames deep", "one frame deep: twice the tokens of a clip"),
    "no_banks": ("Memory banks help", "no banks: keys of the batch alone"),
    "no_momentum": ("Momentum encoders help", "keys of the present weights"),
}

SHOWN = {"pictures": PICTURES, "clips": CLIPS, "siblings": SIBLINGS, "reverse": REVERSE}  # what verdicts are about


def caption(medium: str, metric: str = "exact", finetuned: bool = False) -> Key:
    return Key("caption", metric, medium, 0, finetuned)


MEASURES = {
    "Retrieval, zero-shot and probe, without reranking": (
        Measure("text to picture, R@1", (retrieval("t2i_r1", "image"),)),
        Measure("picture to text, R@1", (retrieval("i2t_r1", "image"),)),
        Measure("text to clip, R@1", (retrieval("t2v_r1", "video"),)),
        Measure("clip to text, R@1", (retrieval("v2t_r1", "video"),)),
        SIBLINGS,
        Measure("clip to text among its siblings", (Key("motion", "sibling_v2t", "video"),), 8),
        REVERSE,
        Measure("shape of a picture, zero-shot", (Key("classify", "top1", "image"),)),
        Measure("motion of a clip, zero-shot", (Key("classify", "top1", "video"),)),
        Measure("shape of a picture, linear probe", (Key("probe", "top1", "image"),)),
        Measure("motion of a clip, linear probe", (Key("probe", "top1", "video"),)),
    ),
    "The best 16 reranked, and the matching decoder alone": (
        Measure("text to picture, R@1, reranked", (retrieval("t2i_r1", "image", 16),)),
        Measure("picture to text, R@1, reranked", (retrieval("i2t_r1", "image", 16),)),
        Measure("text to clip, R@1, reranked", (retrieval("t2v_r1", "video", 16),)),
        Measure("clip to text, R@1, reranked", (retrieval("v2t_r1", "video", 16),)),
        Measure("text to clip among its siblings, matching", (Key("motion", "match_sibling_t2v", "video"),), 8),
        Measure("clip against itself backwards, matching", (Key("motion", "match_reverse", "video"),)),
    ),
    "Writing": (
        Measure("whole caption right, pictures", (caption("image"),)),
        Measure("whole caption right, clips", (caption("video"),)),
        Measure("motion word right", (caption("video", "motion_word"),)),
        Measure("whole caption right, pictures, finetuned", (caption("image", finetuned=True),)),
        Measure("whole caption right, clips, finetuned", (caption("video", finetuned=True),)),
        Measure("motion word right, finetuned", (caption("video", "motion_word", True),)),
        Measure("answers about pictures, finetuned", (Key("answer", "top1", "image", 0, True),), 5),
        Measure("answers about clips, finetuned", (Key("answer", "top1", "video", 0, True),), 4),
    ),
}

INTRODUCTION = """# The paper's claims about pretraining, tried again on the built-in world

Written by `make -C studies/paradigms` from the results files in [paradigms/](paradigms/) alone, which hold what every
test item scored, settings, commit and machine.

**What was done.** Five paradigms pretrain the tiny model on the built-in world (`omnivl/data/world.py`), all after the
same language warm-up of their seed (captions of pictures and of clips), all with the demo's settings. Those were chosen
on the world's validation scenes; the study trains on its training scenes and reports its test scenes, {items} pictures
and {items} clips that are the same for every run, and chooses nothing. Budgets are weighted steps: an image step (48
pictures) counts 1, a clip step (32 clips of 4 frames) {clip:.3f}, as measured once ([cost.json](paradigms/cost.json)).
x1 is half the demo: {images} image steps and {joint} joint steps of decoupled joint pretraining. CPU seconds are of one
thread of a machine that did other work too, so they say less than weighted steps do. A model that saw no clips takes
each frame as a picture; one that saw no pictures takes a picture as a clip that stands still (in finetuning by the sum
of its 3-D patches).

**How to read it.** A cell is the mean over seeds, ± its standard deviation over seeds, [95% bootstrap interval over
items]. A difference is decoupled joint minus the rival, item by item on the same seeds. It counts as *shown* where its
interval leaves out zero and every seed, of two or more, has its sign, as *the reverse* where decoupled joint is behind
in the same way, else as *not shown*. Intervals know nothing of the luck of training; the seeds do. The pixel neighbour
copies from the nearest of {copied:,} training items (16 x 16 pixels, all frames). One frame and shuffled frames are
decoupled joint pretraining, looking at its clips so. The linear probe is a logistic regression on the frozen encoder's
[CLS] of 2,000 pictures or 1,000 clips of training scenes; how strongly it is regularised is chosen on validation scenes
(of every run, anew).
"""

READING = """## How we read it

- **What decoupled joint pretraining is for.** It is the one paradigm that is good at both media. Image only is blind
  to motion, image then video forgets pictures while it learns clips, and joint from scratch is slow to begin with (it
  catches up as the budget grows). The joint stage keeps what the image stage learnt, at little cost on clips
  (siblings and motion words).
- **Where it did not win: pictures, against image only.** For "helps images" to hold, clips would have to show what
  pictures do not. In this world both draw the same scenes, so a clip step is a dear picture step; at equal numbers of
  pictures, where image only has fewer steps and no clips, the gap is small and still the reverse. It narrows as the
  budget grows, as image only comes near its ceiling.
- **Where it did not win: clips, against image then video.** All later steps of the rival go to clips: by the
  intervals of one seed it is behind with half of the budget, level at x1 and ahead with twice. To be ahead of it, the
  pictures of the joint stage would have to teach words or things that clips need and the image stage did not: a world
  with rare things that only pictures show.
- **Labels, and UniVLC beside plain contrast.** Captions of this world name all that a label names, so labels add no
  word. They would have to say what captions leave out.
- **Banks, and a start from image weights,** are shown to help, by little; two frames a patch help clips by much more.
- **Reranking.** At this budget the matching decoder knows less than the similarity does (its rows on siblings), so it
  cannot correct it; what it adds to it is near nothing.
- **From real encoders**, too, image only is ahead on drawings and decoupled joint pretraining second. On actions the
  two that saw the most clips, joint from scratch and video only, are ahead. The short finetuning of the decoders is
  too short: no caption is right, reranking moves next to nothing, and answers about clips are below the commonest
  answer. Those rows compare nothing yet.
"""

LEFT_OUT = """## Left out

- Growth with more than one seed, and beyond twice the budget of the rest.
- From real encoders: more than a seventh of the recipe's steps; decoders that learn in pretraining, or much after it,
  and any where drawings and clips are as many; a third seed.
- Finetuning is short (100 steps for captions, 200 for answers) and only the paradigms at x1 have it.
"""
