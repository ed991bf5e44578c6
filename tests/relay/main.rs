//! The relay against a scripted ticket endpoint.

mod connections;
mod content;
mod endpoint;
mod faults;
mod site;
