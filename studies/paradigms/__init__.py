"""The paper's claims about pretraining, tried again on the built-in world: which paradigm, and what each part adds."""
