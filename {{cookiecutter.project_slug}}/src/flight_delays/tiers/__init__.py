"""How does a model come from development to production? Look (doctor), promote, deploy; settings.py has the table."""
