"""Files that the stages hand to one another: tables, image archives, pixel shards."""
