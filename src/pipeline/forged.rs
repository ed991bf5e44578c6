//! Header fields that only we may write, written by somebody else.

use super::authentication_results;
use super::site_key::FIELD_PREFIX;
use crate::mail::{Header, Headers, Reply};

/// Fields taken out of one message at most. An honest one has none, or those of a pass or two through a server of ours. An MTA
/// reads the header section anew for each (Postfix took 4 s for 8,000), so a small message could keep it busy.
const FORGED_MAX: usize = 100;

/// The positions of the fields to take away before ours are added: every `X-Deskmilter-*`, and every Authentication-Results
/// that claims to be of `authserv_id` (RFC 8601 section 5). Those of other hosts stay.
pub(super) fn fields(headers: &Headers, authserv_id: &str) -> Vec<usize> {
    positions(headers, |field| is_ours_by_name(field) || is_our_result(field, authserv_id))
}

/// The positions of the `X-Deskmilter-*` fields alone.
pub(super) fn named_ours(headers: &Headers) -> Vec<usize> {
    positions(headers, is_ours_by_name)
}

/// The reply for a message with so many of these fields that to take them out would harm the MTA.
pub(super) fn refuse_flood(count: usize) -> Option<Reply> {
    let text = format!("{count} header fields that only this mail server may write, more than {FORGED_MAX}");
    (count > FORGED_MAX).then(|| Reply::new(554, 7, 1, text))
}

/// As [`fields`], but an Authentication-Results above `position` is believed.
pub(super) fn fields_below(headers: &Headers, authserv_id: &str, position: usize) -> Vec<usize> {
    let believed =
        |index: usize| index < position && headers.iter().nth(index).is_some_and(|field| !is_ours_by_name(field));
    fields(headers, authserv_id).into_iter().filter(|&index| !believed(index)).collect()
}

fn positions(headers: &Headers, forged: impl Fn(&Header) -> bool) -> Vec<usize> {
    headers.iter().enumerate().filter(|(_, field)| forged(field)).map(|(index, _)| index).collect()
}

fn is_ours_by_name(field: &Header) -> bool {
    field.name().get(..FIELD_PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(FIELD_PREFIX.as_bytes()))
}

fn is_our_result(field: &Header, authserv_id: &str) -> bool {
    field.is(authentication_results::NAME) && authentication_results::claims(field, authserv_id)
}
