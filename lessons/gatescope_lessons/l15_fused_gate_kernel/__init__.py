"""Lesson 15: write the gate as Triton kernels, up to attention with the gate inside, and see what they touch."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Write your own fused gate kernel",
    minutes=60,
    difficulty="advanced",
    prerequisites=(
        "Lesson 02: where the gate stands, and what softmax does with a row of scores.",
        "You can read broadcasting in numpy or PyTorch: `i[:, None] * stride + j[None, :]`.",
        "Linux, for Triton. No GPU: the kernels run in Triton's interpreter, on the CPU.",
    ),
    after=(2,),
    objectives=(
        "write a Triton kernel for tensors of any shape and stride that touches no address but theirs",
        "keep a running maximum and rescale, so that a softmax needs no more than one block at a time",
        "fuse a gate into the end of causal attention, and write the backward pass of the gate",
        "count the bytes a kernel moves and say which of them fusing saves",
        "read the registers and spills of your own kernel from its binary, without a GPU",
    ),
    main_control="gs-access-tile_columns",
    main_view="gs-access-numbers",
)
