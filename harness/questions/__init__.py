"""Multiple-choice questions and the text made from them."""
