"""Characters as data, and the schema that reads them."""
