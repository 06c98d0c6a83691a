"""A study: many trainings of several arms at several doses, played back over α. Its plan, its cells, its workers."""
