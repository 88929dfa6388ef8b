"""Lesson 05: a state that forgets, what a gate gains over a fixed decay, and what no state of fixed size recalls."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="The gate as a clock",
    minutes=45,
    difficulty="intermediate",
    prerequisites=("You know softmax attention: queries, keys, values, a causal mask.",),
    after=(1,),
    objectives=(
        "write linear attention as a recurrence and as a masked product, and say why the chunk form costs less",
        "turn a decay into a half-life, and say what a decay of 0.9 has forgotten after 20 tokens",
        "say when a gate made from the token beats the best fixed decay, and when forgetting is of no use at all",
        "predict from key size and number of pairs where a state fails at recall, and how one softmax layer mends it",
    ),
    main_control="gs-clock-speed",
    main_view="gs-clock-numbers",
)
