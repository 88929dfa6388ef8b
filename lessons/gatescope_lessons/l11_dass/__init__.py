"""Lesson 11: search for an architecture that will be pruned, with its weights read sparse while searching."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="DASS: searching for an architecture that will be pruned",
    minutes=40,
    difficulty="advanced",
    prerequisites=(
        "You have pruned a network by magnitude; lesson 10 does it.",
        "You know what a convolution and a softmax are, and can follow a gradient through both.",
    ),
    after=(10,),
    objectives=(
        "write a mixture of operations, and the gradient by which its weights learn",
        "derive a cell from the weights of a supernet, and say what the derivation throws away",
        "search with weights that are read sparse, and tell what that changes from what it improves",
        "hold a search to the baselines it owes: dense search, random search, and a cell made by hand",
    ),
    main_control="gs-sparse-sparsity",
    main_view="gs-sparse-cell-graph",
)
