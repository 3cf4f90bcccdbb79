//! Placeholder of the parser's cases; they follow with the parser's own commit.
