//! The `deskmilter` program.

fn main() {}
