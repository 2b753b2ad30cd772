"""Raw images: a few archives, and a manifest that names every image in them."""

# One line an image, sorted by `path`. `split` is the declared side or empty, `group` ties
# related images together or is empty, `shard` is the archive of data/raw/ that holds the
# file and `member` its name there.
MANIFEST = ("id", "path", "label", "split", "group", "sha256", "shard", "member")
