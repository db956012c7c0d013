"""What a training is made of: the step and its graph, evaluation, clocks, costs, targets."""
