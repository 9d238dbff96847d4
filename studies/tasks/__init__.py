"""Every downstream task on the built-in world and on the mini benchmark: recipes, floors, all runs, tables."""
