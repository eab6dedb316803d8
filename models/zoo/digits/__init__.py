"""A small convolutional network on handwritten digits: an 8x8 image in, the probability of each digit out."""
