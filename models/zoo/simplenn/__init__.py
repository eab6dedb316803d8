"""A small regression: ten raw features of a patient in, the progression of diabetes after a year out."""
