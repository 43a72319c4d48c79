"""How ready is this project for production? The ML Test Score, worked out from the project's own tests.

A test earns a row of the rubric by its mark, `@pytest.mark.ml_test("model-6")`; its sabotage twin,
`@pytest.mark.sabotage(of=that_test, fault="…")`, proves that it can fail. There is no other list of them.
"""
