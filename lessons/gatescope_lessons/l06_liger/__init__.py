"""Lesson 06: a trained softmax transformer becomes gated and recurrent without a new parameter, and what that costs."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="A recurrent model out of a trained transformer",
    minutes=40,
    difficulty="intermediate",
    prerequisites=(
        "You know softmax attention: queries, keys, values, a causal mask.",
        "You have done lesson 05, or know linear attention as a state that forgets.",
    ),
    after=(5,),
    objectives=(
        "read the weights of softmax attention as a gated recurrence, without a new parameter",
        "say what a cache and what a state carry after T tokens, and where they cross",
        "repair a converted model with adapters of low rank, and say what they can and cannot bring back",
        "tell from a control whether it is the recurrence that works, or the window beside it",
    ),
    main_control="gs-liger-mix",
    main_view="gs-liger-numbers",
)
