"""The paper's Figure 3 at the bundled model's size: reward over images generated, every method by the same loop."""
