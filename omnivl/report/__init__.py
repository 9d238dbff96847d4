"""What a run shows of itself: `tables`, the results as the terminal prints them; and report.html, one file that opens
offline: `page` lays it out, `curves` draws the losses, `items` shows test items with what is written of them and found.

The page is plain HTML, CSS and inline SVG; pictures and clips are WebP data URIs, so nothing is loaded from anywhere.
This room knows no model and no data set: `omnivl.run` hands it a run folder and what was written and found.
"""

from omnivl.report.items import Example, Search
from omnivl.report.page import write_report
from omnivl.report.tables import print_table

__all__ = ["Example", "Search", "print_table", "write_report"]
