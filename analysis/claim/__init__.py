"""The preprint's claims (claims.yaml): what each states, its test and its verdict."""
