"""The backbone, its gist slots, and the two phases compress and decode. Importing this package loads nothing.

Letters, the same in every file:

    B  rows of a batch            E  hidden size (embedding width)
    T  tokens                     L  layers
    P  cached positions           V  vocabulary
    H  key-value heads            K  gist slots
    D  head size
"""
