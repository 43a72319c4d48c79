"""What would the contract of this data say? Reads the rows, proposes columns, shows the difference.

`kinds` settles types, `survey` measures, `personal` looks for columns that must not be features,
`target` decides what is predicted, `roles` what each column is for, `rules` and `entry` what must hold,
`differences` says where data and contract disagree, `document` keeps the file, `show` prints, `run` orders it all.
"""
