"""How is a model made? One module a stage: ingest, validate, split, train, evaluate, register; and tune beside them."""
