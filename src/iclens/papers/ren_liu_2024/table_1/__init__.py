"""Table 1 of Ren & Liu 2024: an encoder fine-tuned on GLUE with every modification of attention."""
