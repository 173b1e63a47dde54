"""How alike coupled samples are (`alignment`), and whether each still shows what its prompt says (`faithfulness`)."""
