"""all-MiniLM-L6-v2 on text: UTF-8 in, the embedding of length 1 out. The network is that of `minilm_ids`."""
