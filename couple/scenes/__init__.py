"""Posed pictures of a scene: cameras, the files that hold them, and edits that move things in them."""
