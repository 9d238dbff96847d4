"""Annotation files to items: one short reader function a format, listed in `FORMATS`.

A reader gets (path, root, split) and returns the data set's items; it decodes no media. `items` says what an item is
and how rows become items; `tables` holds what readers share; `own`, `pictures`, `classes`, `cifar`, `actions` and
`videos` are the readers by family; `format` and `formats` are their table. The paper (OmniVL, arXiv 2209.07526) names
data sets, not files.
"""

from omnivl.data.annotations.format import Count, Format
from omnivl.data.annotations.formats import FORMATS
from omnivl.data.annotations.items import Annotations, Item, Problem, Question
from omnivl.data.annotations.own import read_folder, read_manifest

__all__ = [
    "FORMATS",
    "Annotations",
    "Count",
    "Format",
    "Item",
    "Problem",
    "Question",
    "read_folder",
    "read_manifest",
]
