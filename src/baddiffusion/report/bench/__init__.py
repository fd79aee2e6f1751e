"""The leaderboard: detectors and repairs over the zoo, and what papers claim beside what was measured."""
