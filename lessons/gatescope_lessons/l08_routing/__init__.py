"""Lesson 08: train eight experts and watch who gets the tokens, what balances them, and a gate that becomes sparse."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Routing: who gets the token?",
    minutes=45,
    difficulty="intermediate",
    prerequisites=("You know softmax and gradient descent, and have seen what a mixture of experts is.",),
    objectives=(
        "say why experts starve behind a top-1 gate, and tell starvation from specialisation",
        "write the Switch balancing loss and the bias update of loss-free balancing, and say what each costs",
        "write a dense-to-sparse gate whose number of experts differs from token to token",
        "tell what of EvoMoE's gain comes from the gate, from the shared start and from the masks",
    ),
    main_control="gs-regate-temperature",
    main_view="gs-regate-numbers",
)
