//! Do the ACLs ask what they should, wait long enough for the answer, and come last? Read from the configuration as
//! `exim -bP config` prints it: files included, macros put in, lines joined.

use super::{Exim, EximError, fragments};
use crate::config::{Config, Listen};
use crate::doctor::Finding;

/// In the statement that has a message judged.
const JUDGE: &str = "{deskmilter/1 judge ";
/// In the statement that puts off a ticket system's mail while nobody answers; the logins follow.
const LOGINS: &str = "inlisti{$authenticated_id}{";
/// In the statement that asks about a recipient.
const RCPT: &str = "{deskmilter/1 rcpt ";
/// In the last statement of ours in the DATA ACL.
const LAST: &str = "acl_m_deskmilter_sealed";
/// What may refuse a message.
const REFUSING: [&str; 4] = ["deny", "defer", "drop", "require"];
const APPLY: &str = "run deskmilter exim --apply, and reload Exim";

/// Runs the checks.
///
/// # Errors
/// Exim reads no configuration.
pub(super) fn check(exim: &Exim, config: &Config) -> Result<Vec<Finding>, EximError> {
    let text = exim.says(&["-bP", "config"])?;
    Ok(findings(&text, config))
}

fn findings(text: &str, config: &Config) -> Vec<Finding> {
    const CHECK: &str = "asked";
    let Some(patience) = patience(text) else {
        let found = "no ACL has messages judged by deskmilter".to_owned();
        return vec![Finding::fail(CHECK, found, APPLY)];
    };
    let deadline = config.exim.as_ref().map(|exim| exim.deadline.as_secs()).unwrap_or_default();
    let mut findings = vec![match patience > deadline {
        true => Finding::ok(
            CHECK,
            format!("the DATA ACL waits {patience} s for a verdict, which takes {deadline} s at most"),
        ),
        false => {
            let found =
                format!("the DATA ACL waits {patience} s for a verdict, which may take {deadline} s (exim.deadline)");
            Finding::fail(CHECK, found, APPLY)
        }
    }];
    findings.extend(elsewhere(text, config));
    findings.extend(unknown_login(text, config));
    let inline = fragments::inline_addresses(config);
    let named =
        |line: &str| line.trim().strip_prefix("addresslist deskmilter_inline =").map(|list| list.trim() == inline);
    if text.lines().find_map(named) == Some(false) {
        let found = "Exim has another list of the addresses whose mail is relayed inline".to_owned();
        findings.push(Finding::fail("inline relay", found, APPLY));
    } else if !inline.is_empty() {
        findings.extend(relayed_inline(text));
    }
    findings
}

/// Exim asks where we do not listen.
fn elsewhere(text: &str, config: &Config) -> Option<Finding> {
    let ours: Vec<String> = config.exim.iter().flat_map(|exim| &exim.listen).filter_map(path).collect();
    let asked = text.lines().filter(|line| line.contains(JUDGE)).filter_map(|line| line.split_once("readsocket{"));
    let mut sockets = asked.filter_map(|(_, rest)| rest.split('}').next());
    let other = sockets.find(|socket| !ours.iter().any(|own| own == socket))?;
    let found = format!("the DATA ACL asks {other}, and deskmilter listens at {} (exim.listen)", ours.join(", "));
    Some(Finding::fail("asked", found, APPLY))
}

fn path(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Unix(path) => Some(path.display().to_string()),
        Listen::Inet(_) => None,
    }
}

/// A login that Exim does not know as one of the ticket system's.
fn unknown_login(text: &str, config: &Config) -> Option<Finding> {
    let lists = text.lines().filter_map(|line| line.split_once(LOGINS)?.1.rsplit_once("}}"));
    // A colon within an item is doubled.
    let one = |item: &str| item.trim().replace("::", "\n");
    let known: Vec<String> = lists
        .flat_map(|(list, _)| {
            list.replace("::", "\n").split(':').map(|item| item.trim().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let unknown = fragments::logins(config).into_iter().find(|login| !known.contains(&one(login)))?;
    let found =
        format!("Exim does not know the login {unknown}: its mail would leave unsigned while deskmilter is down");
    Some(Finding::fail("logins", found, APPLY))
}

/// What counts where a message is a ticket before the ACL ends.
fn relayed_inline(text: &str) -> [Finding; 2] {
    let asked = match text.contains(RCPT) {
        true => Finding::ok("asked at RCPT", "recipients of another route are put off there".to_owned()),
        false => Finding::warn(
            "asked at RCPT",
            "nobody asks there, so that all recipients of a message share one fate".to_owned(),
            APPLY,
        ),
    };
    let last = match after_ours(text) {
        None => Finding::ok("last in order", "nothing refuses a message after it was relayed".to_owned()),
        Some(statement) => Finding::warn(
            "last in order",
            format!("{statement:?} may refuse a message that is a ticket already"),
            "move it before what asks deskmilter",
        ),
    };
    [asked, last]
}

/// For how many seconds the DATA ACL waits. `None` where it asks nothing.
fn patience(text: &str) -> Option<u64> {
    let asked = text.lines().filter_map(|line| line.split_once(JUDGE));
    // The shortest one counts.
    asked.filter_map(|(_, rest)| seconds(rest.split_once("\\n}{")?.1.split('}').next()?)).min()
}

/// A time as Exim writes it: `2m10s`; a number alone is seconds.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0_u64, None::<u64>);
    for c in text.chars() {
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            digit => {
                let digit = u64::from(digit.to_digit(10)?);
                number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
                continue;
            }
        };
        total = total.saturating_add(number.take()?.saturating_mul(unit));
    }
    (!text.is_empty()).then(|| total.saturating_add(number.unwrap_or(0)))
}

/// The first statement that may refuse a message after ours, in an ACL that has it judged.
fn after_ours(text: &str) -> Option<&str> {
    let mut behind = false;
    for line in text.lines().map(str::trim) {
        let label = line.ends_with(':') && !line.contains(' ');
        if label || line.starts_with("begin ") {
            behind = false;
        } else if line.contains(LAST) && line.contains("set ") {
            behind = true;
        } else if behind && REFUSING.iter().any(|verb| line.split_whitespace().next() == Some(*verb)) {
            return Some(line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration as Exim prints it.
    fn printed(after: &str) -> String {
        format!(
            "begin acl\n\n  data:\n    warn\n    set acl_m_deskmilter = ${{readsocket{{/s}}{{deskmilter/1 judge id=${{base64:$x}} \
             a=b\\n}}{{2m10s}}{{\\n}}{{}}}}\n    warn\n    set acl_m_deskmilter_sealed = x\n{after}    accept\n\n  other:\n    \
             deny\n\nbegin routers\n"
        )
    }

    #[test]
    fn the_time_that_the_acl_waits_is_read() {
        assert_eq!(patience(&printed("")), Some(130));
        assert_eq!(patience("begin acl\n"), None);
        for (text, expected) in [("55", Some(55)), ("1h2m3s", Some(3_723)), ("", None), ("x", None), ("s", None)] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_statement_that_may_refuse_what_is_a_ticket_is_found_and_another_acls_is_not() {
        assert_eq!(after_ours(&printed("")), None);
        assert_eq!(after_ours(&printed("    warn\n    message = deny\n")), None);
        assert_eq!(after_ours(&printed("    deny malware = *\n")), Some("deny malware = *"));
        assert_eq!(
            after_ours(&printed("    require verify = header_syntax\n")),
            Some("require verify = header_syntax")
        );
    }
}
