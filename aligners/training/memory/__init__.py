"""Memory of a training, predicted from the architecture, and the steps that fit into it."""
