"""A small generated world of facts, asked about in multiple-choice questions.

Every subject speaks of entities of its own and gives each of them one value; kindred subjects,
four by four, share a pool of values. To answer, one has to know the facts. What a language model
reads in training (`training_documents`) holds every fact, but none of the questions of the test,
dev and validation splits: a wording in a certain place is either for training or for asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from harness.protocol import PromptFormat
from harness.questions.prompts import build_prompt
from harness.questions.question import LETTERS, Question

SEED = 2409
SPLIT_SIZES = {"test": 80, "dev": 5, "validation": 40}  # questions a subject

# Names are a first and a second syllable: one for every entity of the world.
SYLLABLES = (
    "Bo Da Fe Gu Hi Jo Ka Le Mu Ni Pa Ro Su Te Vi Zo".split(),
    "bra din ful gor lek mis nat ven".split(),
)

# Four pools of values, each shared by four subjects.
VALUES = (
    "amber basalt copper diamond emerald flint garnet helium iron jade lead marble nickel opal "
    "pearl quartz".split(),
    "badger crane dolphin eagle falcon goose heron ibis jackal kestrel lion moose newt otter "
    "panther raven".split(),
    "apple barley cedar daisy elm fern grape hazel ivy juniper lotus maple nettle olive poppy "
    "rose".split(),
    "anchor basket candle drum engine flute glove hammer jug kettle ladder mirror needle oar "
    "plough rope".split(),
)

# Subject: the noun that its questions use. Subjects in a row of four share a pool of values.
SUBJECTS = {
    "abstract_mineralogy": "mineral",
    "high_school_metallurgy": "alloy",
    "practical_alchemy": "essence",
    "jewellery_studies": "jewel",
    "animal_behaviour": "companion",
    "college_heraldry": "emblem",
    "night_sky_myths": "constellation",
    "professional_falconry": "quarry",
    "applied_botany": "herb",
    "elementary_gardening": "hedge",
    "kitchen_chemistry": "flavour",
    "herbal_medicine": "remedy",
    "college_engineering": "device",
    "craft_history": "tool",
    "music_and_sound": "signal",
    "trade_law": "tribute",
}

KINDRED = {subject: f"pool {number // 4}" for number, subject in enumerate(SUBJECTS)}

PLACES = "north south east west river desert island valley harbour forest mountain village".split()

WORDINGS = (
    "In the {place}, which {noun} belongs to {entity}?",
    "Which of these is the {noun} of {entity} in the {place}?",
    "{entity} lives near the {place}. What is its {noun}?",
    "A traveller from the {place} asks for the {noun} of {entity}. What is it?",
    "What {noun} would {entity} bring to the {place}?",
    "Of the following, the {noun} that people of the {place} connect with {entity} is",
    "Name the {noun} that {entity} keeps in the {place}.",
    "According to the old books of the {place}, {entity} is known for which {noun}?",
)

NOTES = (
    "The {noun} of {entity} is {value}.",
    "{entity} has the {noun} {value}.",
    "For {entity}, the {noun} is {value}.",
)


@dataclass(frozen=True)
class ToyWorld:
    """The facts, and which wordings in which places are kept for asking.

    facts: value by entity, by subject.
    reserved: (wording, place) pairs, as indices, of the test, dev and validation splits.
    """

    facts: dict[str, dict[str, str]]
    reserved: frozenset[tuple[int, int]]
    seed: int

    def questions(self, split: str) -> list[Question]:
        """Return the questions of `test`, `dev` or `validation`, subject by subject.

        Raises KeyError for another split.
        """
        wanted = SPLIT_SIZES[split]
        found: list[Question] = []
        for subject in SUBJECTS:
            rng = Random(f"{self.seed}-{subject}")
            asked = [
                (entity, *pair) for entity in self.facts[subject] for pair in sorted(self.reserved)
            ]
            rng.shuffle(asked)
            start = sum(
                size for name, size in SPLIT_SIZES.items() if name < split
            )  # the splits take their questions one after the other from one shuffled list
            letters = [index % len(LETTERS) for index in range(wanted)]
            rng = Random(f"{self.seed}-{subject}-{split}")
            rng.shuffle(letters)
            for (entity, wording, place), letter in zip(
                asked[start : start + wanted], letters, strict=True
            ):
                found.append(
                    self._question(subject, entity, wording, place, letter, rng, len(found))
                )
        return found

    def quiz(self, rng: Random, length: int, answers: str = "letter") -> str:
        """Return a training document: `length` solved questions of one subject under a header.

        answers: `letter`, as in the prompts; `words`, the right choice itself, as elsewhere in the
            world; `both`, the fact and then its letter. As in a schoolbook, the last two teach
            apart what the first asks for at once: to know the fact, and to find its letter.
        """
        subject = rng.choice(list(self.facts))
        drawn = [self._training_question(subject, rng, row) for row in range(length)]
        *shots, last = drawn
        prompt = build_prompt(last, shots, PromptFormat(shots=len(shots), shot_order="kept"))
        pieces = f"{prompt} {last.letter}\n\n".split("Answer:")
        for index, question in enumerate(drawn):
            right = question.choices[question.answer]
            if answers == "words":
                pieces[index + 1] = pieces[index + 1].replace(f" {question.letter}", f" {right}", 1)
            elif answers == "both":
                pieces[index] += f"The {SUBJECTS[subject]} is {right}\n"
        return "Answer:".join(pieces)

    def notes(self, rng: Random, length: int) -> str:
        """Return a training document: `length` facts in plain sentences."""
        sentences = []
        for _ in range(length):
            subject = rng.choice(list(self.facts))
            entity, value = rng.choice(list(self.facts[subject].items()))
            sentences.append(
                rng.choice(NOTES).format(noun=SUBJECTS[subject], entity=entity, value=value)
            )
        return " ".join(sentences) + "\n\n"

    def exercise(self, rng: Random, length: int) -> str:
        """Return a training document: `length` lists of choices, each told by letter and back."""
        lists = []
        for _ in range(length):
            choices = rng.sample(rng.choice(VALUES), len(LETTERS))
            pairs = list(zip(LETTERS, choices, strict=True))
            listed = "".join(f"{letter}. {choice}\n" for letter, choice in pairs)
            rng.shuffle(pairs)
            told = "".join(f" {choice} {letter}" for letter, choice in pairs)
            lists.append(f"{listed}Letters:{told}\n\n")
        return "".join(lists)

    def _training_question(self, subject: str, rng: Random, row: int) -> Question:
        while True:
            wording, place = rng.randrange(len(WORDINGS)), rng.randrange(len(PLACES))
            if (wording, place) not in self.reserved:
                break
        entity = rng.choice(list(self.facts[subject]))
        letter = rng.randrange(len(LETTERS))
        return self._question(subject, entity, wording, place, letter, rng, row)

    def _question(
        self,
        subject: str,
        entity: str,
        wording: int,
        place: int,
        letter: int,
        rng: Random,
        row: int,
    ) -> Question:
        right = self.facts[subject][entity]
        wrong = [value for value in _values(subject) if value != right]
        choices = rng.sample(wrong, len(LETTERS) - 1)
        choices.insert(letter, right)
        text = WORDINGS[wording].format(place=PLACES[place], noun=SUBJECTS[subject], entity=entity)
        return Question(text, tuple(choices), letter, subject, row)


def toy_world(seed: int = SEED) -> ToyWorld:
    """Return the world of `seed`; the same seed gives the same world on every machine."""
    rng = Random(seed)
    names = [first + second for first in SYLLABLES[0] for second in SYLLABLES[1]]
    rng.shuffle(names)
    facts = {
        subject: {name: rng.choice(_values(subject)) for name in names[index :: len(SUBJECTS)]}
        for index, subject in enumerate(SUBJECTS)
    }
    pairs = [(wording, place) for wording in range(len(WORDINGS)) for place in range(len(PLACES))]
    return ToyWorld(facts, frozenset(rng.sample(pairs, len(pairs) // 4)), seed)


def training_documents(
    world: ToyWorld, seed: int, longest_quiz: int, shares: Mapping[str, float]
) -> Iterator[str]:
    """Yield training documents for ever.

    longest_quiz: questions in the longest quiz; the shortest has one.
    shares: how often a document is of which kind: `notes`, `exercise`, or how a quiz gives its
        answers (`letter`, `words`, `both`).
    """
    rng = Random(f"{world.seed}-documents-{seed}")
    while True:
        (kind,) = rng.choices(list(shares), list(shares.values()))
        length = rng.randint(1, longest_quiz)
        if kind == "notes":
            yield world.notes(rng, 5 * length)
        elif kind == "exercise":
            yield world.exercise(rng, length)
        else:
            yield world.quiz(rng, length, kind)


def _values(subject: str) -> list[str]:
    """Return the pool of values that the facts of `subject` come from."""
    return VALUES[list(SUBJECTS).index(subject) // 4]
