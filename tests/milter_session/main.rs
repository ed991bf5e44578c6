//! The milter attachment as an MTA meets it: a raw client plays Postfix's and Sendmail's side.

#[cfg(test)]
mod anything;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mta;
#[cfg(test)]
mod negotiation;
#[cfg(test)]
mod none_of_our_business;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod state;
#[cfg(test)]
mod verdicts;
