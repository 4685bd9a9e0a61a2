"""Running models: sessions, inputs, comparing what two models compute, timing."""
