"""Second derivatives of a network's loss: along directions, layer by layer, and in blocks."""
