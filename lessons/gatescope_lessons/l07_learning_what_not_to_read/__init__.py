"""Lesson 07: gates that learn which keys need not be read, and which need not be kept."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Learning what not to read",
    minutes=40,
    difficulty="intermediate",
    after=(1,),
    prerequisites=(
        "You know attention, and that a decoder keeps the keys and values of all tokens it has read.",
        "Lesson 01: you have seen the attention sink and what happens without it.",
    ),
    objectives=(
        "write what a block gate is taught: the largest weights of every block of attention",
        "read a curve of loss against sparsity, with an oracle above it and chance below",
        "write which keys stay in a cache of fixed size, and say what accumulated attention is biased towards",
        "compare a learned eviction gate with StreamingLLM and H2O at equal budgets, on new and on returning text",
    ),
    main_control="gs-cache-budget",
    main_view="gs-cache-numbers",
)
