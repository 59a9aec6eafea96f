//! Training: losses, optimisers, loops. Knows nothing of HTTP.
