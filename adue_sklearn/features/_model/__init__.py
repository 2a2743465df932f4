"""A classifier: loaded, its head found, its texts tokenised and batched."""
