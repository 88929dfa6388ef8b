"""Lesson 04: attention as a memory with an energy: what beta does, what entropy says, and what softmax could be."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Entropy and energy",
    minutes=45,
    difficulty="intermediate",
    prerequisites=(
        "You know softmax attention, and what its entropy is (lesson 01).",
        "Logarithmic axes hold no terror; a gradient is a thing you have met.",
    ),
    after=(1,),
    objectives=(
        "retrieve a stored pattern from half of it with one line of attention, and say what energy that line lowers",
        "tell an average over all patterns, over some, and a single pattern apart, and say how beta moves between them",
        "say how many patterns a memory of d dimensions holds, and how you measured it",
        "bound the entropy of a head from the size of its logits, and recognise entropy collapse in training",
        "choose between softmax, off-by-one, sparsemax, entmax and sigmoid by what they do to a row of scores",
    ),
    main_control="gs-memory-beta",
    main_view="gs-memory-retrieval-gallery",
)
