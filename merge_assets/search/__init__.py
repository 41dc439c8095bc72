"""Looking for the best values of places of a recipe: proposals, trials that are kept, and what came of them."""
