"""What is on disk beside a run, typed: manifests, score records, answers, and the counts that items boil down to."""
