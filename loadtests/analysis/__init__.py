"""What the records of a campaign say: figures, validity, comparisons. No file is written and no request sent here."""
