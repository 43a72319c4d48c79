"""What is known of a model beyond its score? Each module answers one question on the test rows.

Each has `measure(evidence, chosen)`, which gives plain data with `problems`, one line a person can act on each, or
`does_not_apply`, the reason; `draw(found, path)`, its picture; and `say(found)`, its sentences in the report.
"""
