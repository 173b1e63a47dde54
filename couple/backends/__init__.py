"""What `couple` knows about particular model families: how they load, how their latents lie in memory."""
