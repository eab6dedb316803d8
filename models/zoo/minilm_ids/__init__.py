"""all-MiniLM-L6-v2 on token ids: ids and mask in, the sentence's embedding of length 1 out."""
