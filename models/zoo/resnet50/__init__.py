"""ResNet-50, the heavy case: an image of 224x224 in, the probability of each kind of synthetic texture out.

The network is the one that everybody measures with (4.1 GFLOP an image; 23.5 M parameters with the few classes here).
Its weights are not ImageNet's: it is trained for minutes on textures that a program draws, so that its answers mean
something that a quantized variant can lose.
"""
