"""Lesson 13: point the instruments at a model of your own, and let them run while it trains."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Scope your own model",
    minutes=30,
    difficulty="intermediate",
    prerequisites=(
        "You have trained or loaded a model in PyTorch, of your own or from Hugging Face.",
        "Lesson 01: you can read a sink map. What an expert and a router are is said here.",
    ),
    after=(1,),
    objectives=(
        "measure sinks, entropy and routing of any model that attends through PyTorch or transformers, in one block",
        "make a hand-written attention measurable with one call, and prove that nothing else changed",
        "read the record of a mixture of experts: load, entropy, dead experts, who goes with whom, saturation",
        "record while your own loop trains, lose the machine in the middle, and go on with nothing lost",
        "read a refusal and know what to change",
    ),
    main_control="gs-routing-step",
    main_view="gs-routing-numbers",
)
