"""The character in words: markers, prose, rewards, persona score."""
