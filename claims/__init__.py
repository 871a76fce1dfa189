"""What the papers found: one module a section, one test a finding, judged on every case."""

# The embedded model knows its facts and finds the letter of a choice that is named, but does not
# yet join the two: it answers at chance (0.25 to 0.28, `pytest claims`), and shows no second phase.
TOY_ANSWERS_AT_CHANCE = {"toy": "the toy model answers at chance and has no second phase"}
