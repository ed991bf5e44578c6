//! The relay against a scripted ticket endpoint.

#[cfg(test)]
mod connections;
#[cfg(test)]
mod content;
#[cfg(test)]
#[cfg(test)]
mod faults;
#[cfg(test)]
mod site;
