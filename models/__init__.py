"""Train, convert, export and verify the models; torch and tensorflow live here."""
