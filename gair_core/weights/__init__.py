"""Real weights: where those of other projects are, and how they get here whole."""
