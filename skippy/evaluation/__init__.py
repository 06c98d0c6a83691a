"""The evaluation: what is asked, how it is asked, and what the answers measure."""
