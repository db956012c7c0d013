"""Optimizers of other packages with what a run needs of them: state that can be saved."""
