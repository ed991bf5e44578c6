//! Issued credentials, from the command that issues them to the mail server that has them checked; every test on both stores where
//! the store matters.

#![cfg(test)]

mod both;
mod desk;
mod disconnect;
mod exim;
mod postfix;
mod restarts;
mod rotation;
mod secrets;
mod service;
mod sides;
mod store;
mod way;
