"""Directory trees by descriptor: compared, copied, measured and removed. Nothing here knows of stores."""
