"""ResNet-50, the heavy case: an image of 224x224 in, the probability of each kind of synthetic texture out.

The network is the one that everybody measures with (25.6 M parameters less the 1,000 classes, 4.1 GFLOP an image). Its
weights are not ImageNet's: it is trained for two minutes on textures that a program draws, so that its answers mean
something that a quantized variant can lose.
"""
