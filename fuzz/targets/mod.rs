//! What is fuzzed: one function a target, each a statement about outside input that any octets may try to break.
//!
//! In: octets. Out: nothing; a function that panics has found a defect. The functions stand here once and are called from two
//! sides: by `fuzz/fuzz_targets/` under libFuzzer, and by `replay` among the ordinary tests, which needs no special compiler.
//! They are part of the crate, beside the parsers, in builds for tests and for fuzzing alone, so that no parser has to be
//! public for their sake. `CONTRIBUTING.md` tells how to run them and how to add one.

pub(crate) mod configuration;
pub(crate) mod dkim;
pub(crate) mod import;
pub(crate) mod input;
pub(crate) mod log;
pub(crate) mod mail;
pub(crate) mod milter;
#[cfg(test)]
mod replay;
pub(crate) mod smtp;

/// Gives each target its public name, and its place among the tests.
macro_rules! targets {
    ($($(#[$meta:meta])* $name:ident = $body:path;)*) => {
        $($(#[$meta])* pub fn $name(octets: &[u8]) { $body(octets) })*

        #[cfg(test)]
        mod no_input_breaks {
            $(#[test] fn $name() { super::replay::replay(stringify!($name), super::$name) })*
        }

        /// The names of all targets.
        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    /// Any cut of the octets gives the same milter frames, and no payload makes the command reader panic.
    milter_frames = milter::frames;
    /// Any cut of a milter dialogue gives the same answers and the same messages, within the bounds; all answers are frames.
    milter_session = milter::session;
    /// What we agree to was offered.
    milter_negotiation = milter::negotiation;
    /// Postfix and Sendmail carry out header edits as they are meant.
    milter_edits = milter::edits;
    /// Any cut of an SMTP or LMTP dialogue gives the same events; nothing counts before TLS where TLS is asked for.
    smtp_session = smtp::session;
    /// Any cut of a message's data gives the same message, with CR and LF as CRLF only.
    lmtp_intake = crate::attach::lmtp::fuzzing::intake;
    /// The MTA's queue id is read from any Received field.
    queue_id = smtp::queue_id;
    /// What is dot-stuffed comes out of the decoder as it was, wherever it is cut on both sides.
    dot_stuffing = crate::relay::fuzzing::dot_stuffing;
    /// Any cut of a server's octets gives the same replies, within the bounds; what we make of them reads back.
    reply_reader = crate::relay::fuzzing::replies;
    /// Any cut of a message gives the same header section; it leaves as it came, and edits mean what they say.
    headers = mail::headers;
    /// No name and no value makes more than one field.
    header_value = mail::header_value;
    /// An address, a domain and a path read back as what they are.
    addresses = mail::addresses;
    /// Whoever any reader may take for the author counts.
    author = crate::pipeline::fuzzing::author;
    /// What a message answers is found within the bounds, after any refolding.
    references = crate::pipeline::fuzzing::references;
    /// Forged results are found in every spelling; what we write stays in its place.
    authentication_results = crate::pipeline::fuzzing::authentication_results;
    /// A seal opens for its own message alone, and puts back what was changed.
    seal = crate::pipeline::fuzzing::seal;
    /// A seal with a right MAC may hold anything.
    seal_content = crate::pipeline::fuzzing::seal_content;
    /// A verdict opens for its own message alone, after any refolding.
    verdict = crate::pipeline::fuzzing::verdict;
    /// Our own Received field is known again, whatever stands in it.
    hops = crate::pipeline::fuzzing::hops;
    /// One SPF record, or none, or an error.
    spf_record = crate::pipeline::fuzzing::spf_record;
    /// One DMARC record, or none.
    dmarc_record = crate::pipeline::fuzzing::dmarc_record;
    /// No DKIM signature or key record makes the judge of them panic.
    dkim_signature = crate::pipeline::fuzzing::dkim_signature;
    /// A message that is signed verifies.
    signing = crate::pipeline::fuzzing::signing;
    /// A key record that is read says what it said.
    dkim_record = dkim::record;
    /// A private key is read or refused.
    dkim_key = dkim::key;
    /// What is taken over from OpenDKIM is configuration.
    import_opendkim = import::opendkim;
    /// A configuration is read, or refused with places; what is shown of it reads back.
    configuration = configuration::parse;
    /// What is added to `main.cf` can be taken out; lists of services and milters are read.
    postfix = crate::doctor::postfix::fuzzing::configuration;
    /// No login is checked that did not come over TLS; every answer is one line.
    sasl_session = crate::attach::sasl::fuzzing::session;
    /// A request of a table is read whole or not at all.
    netstring = crate::attach::lookup::fuzzing::netstring;
    /// A request of Exim is read or refused, and names no file outside of its folder.
    exim_request = crate::attach::exim::fuzzing::request;
    /// What Exim puts above a message is taken off, wherever the file is cut.
    exim_prefix = crate::attach::exim::fuzzing::prefix;
    /// A token is one word, or refused.
    token = crate::relay::fuzzing::token;
    /// A line of the journal reads back.
    journal_line = crate::inline::journal::fuzzing::journal_line;
    /// A piped message goes to nobody it does not name, and reads back as it was sent.
    submit = crate::submit::fuzzing::message;
    /// No log breaks the audit or the story of a message, and neither shows what commands a terminal.
    log_lines = log::lines;
}
