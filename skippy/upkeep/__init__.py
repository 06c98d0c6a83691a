"""Looking after a store: what is wrong with it, what can go, where its gigabytes are, and what leaves it whole."""
