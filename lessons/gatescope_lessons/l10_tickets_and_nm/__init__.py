"""Lesson 10: prune networks, find tickets that win, train with N:M masks, and watch neurons become lazy."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Tickets and N:M",
    minutes=45,
    difficulty="intermediate",
    prerequisites=(
        "You have trained a small network, and know what ReLU and the magnitude of a weight are.",
        "Lesson 02 is of help: a training panel there works as it does here.",
    ),
    objectives=(
        "prune a network by magnitude, by layer or all together, and say which controls a pruned network needs",
        "find a winning ticket, and tell apart what its places and what its initial weights are worth",
        "train N:M sparse from scratch with a straight-through gradient, and measure how restless its mask is",
        "measure how many neurons fire, and say where that share falls by training and where it does not",
    ),
    main_control="gs-prune-sparsity",
    main_view="gs-prune-pruned-accuracy",
)
