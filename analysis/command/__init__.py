"""What several commands share: options, finding a run, messages, tables for the terminal."""
