"""From files to files of results, one scan or many."""
