"""Everything that knows what a rank is: `ranks` has the collectives, `parallel` spreads a task over the ranks.

Without torchrun all of it does nothing, on one process. This room knows no model and no task: it is told which modules
to shard, to compile and to recompute.
"""

from omnivl.distributed.parallel import (
    average_gradients,
    choose,
    clip_gradients,
    compile_parts,
    copy_weights,
    recompute,
    shard,
    shard_like,
    whole,
    wrap,
)
from omnivl.distributed.ranks import (
    fill_from_ranks,
    gather,
    gather_objects,
    gather_padded,
    gather_with_gradient,
    is_main,
    main_first,
    max_over_ranks,
    merge_from_ranks,
    own_part,
    process_group,
    rank,
    resolve_device,
    share,
    sum_over_ranks,
    world_size,
)

__all__ = [
    "average_gradients",
    "choose",
    "clip_gradients",
    "compile_parts",
    "copy_weights",
    "fill_from_ranks",
    "gather",
    "gather_objects",
    "gather_padded",
    "gather_with_gradient",
    "is_main",
    "main_first",
    "max_over_ranks",
    "merge_from_ranks",
    "own_part",
    "process_group",
    "rank",
    "recompute",
    "resolve_device",
    "shard",
    "shard_like",
    "share",
    "sum_over_ranks",
    "whole",
    "world_size",
    "wrap",
]
