//! OAuth 2.0 access tokens: kept for as long as they are good, and got anew from a program that the administrator names.
//!
//! The program runs as the user that deskmilter runs as, without a shell, with an empty standard input and an environment of
//! our own, for a bounded time; of what it prints no more than a bounded part is read. A token is never logged.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::command::{self, Group, Printed};
use crate::config::Secret;

/// Octets of a token at most; Microsoft's have some 2,000.
const TOKEN_MAX: usize = 16 * 1024;
/// How long a token command may run.
const COMMAND_MAX: Duration = Duration::from_secs(20);
/// Octets of standard error looked at.
const COMPLAINT_MAX: usize = 4 * 1024;
/// A token is replaced so long before it expires: a login with it takes a while.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a token counts that came without its lifetime.
const BARE_LIFETIME: Duration = Duration::from_secs(60);
/// A longer lifetime is not believed.
const LIFETIME_MAX: u64 = 24 * 3_600;
/// After a failure the command rests so long: whoever waits gets the same answer.
const REST: Duration = Duration::from_secs(5);

/// Why there is no token; says what happened, to which program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct TokenError(pub String);

/// The tokens of one command. All who ask at a time wait for one run of it.
#[derive(Debug)]
pub(super) struct TokenCommand {
    words: Arc<[String]>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    Token {
        token: Secret,
        good_until: Instant,
    },
    Failed {
        error: TokenError,
        rests_until: Instant,
    },
}

impl TokenCommand {
    /// A program's full path and its arguments.
    pub fn new(words: Vec<String>) -> Self {
        Self { words: words.into(), state: Arc::default() }
    }

    /// A good token; never `refused`, which the host did not take, if the command can tell another.
    pub async fn token(&self, refused: Option<&Secret>) -> Result<Secret, TokenError> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        let now = Instant::now();
        match &*state {
            State::Token { token, good_until }
                if now < *good_until && refused.is_none_or(|refused| refused.expose() != token.expose()) =>
            {
                return Ok(token.clone());
            }
            State::Failed { error, rests_until } if now < *rests_until => return Err(error.clone()),
            _ => {}
        }
        let words = Arc::clone(&self.words);
        // A task of its own: where those who wait have less time than the command takes, the first one of them that goes must not
        // take it with him, or there would never be a token.
        let running = tokio::spawn(async move {
            match run(&words).await {
                Ok(Granted { token, lifetime }) => {
                    let good_for =
                        lifetime.map_or(BARE_LIFETIME, |lifetime| lifetime.saturating_sub(MARGIN.min(lifetime / 4)));
                    let good_until = now.checked_add(good_for).unwrap_or(now);
                    *state = State::Token { token: token.clone(), good_until };
                    Ok(token)
                }
                Err(text) => {
                    let error = TokenError(format!("{}: {text}", words.first().map_or("", String::as_str)));
                    // From now on, not from its beginning: a command that hung would not rest at all.
                    let ended = Instant::now();
                    let rests_until = ended.checked_add(REST).unwrap_or(ended);
                    *state = State::Failed { error: error.clone(), rests_until };
                    Err(error)
                }
            }
        });
        running.await.unwrap_or_else(|error| Err(TokenError(error.to_string())))
    }
}

async fn run(words: &[String]) -> Result<Granted, String> {
    let mut command = command::prepare(words).ok_or("no token_command")?;
    let mut child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
    let group = Group::led_by(child.id());
    let (out, complaint) = (child.stdout.take(), child.stderr.take());
    let told = async {
        let ended = async {
            let status = child.wait().await;
            // What it has left running holds its pipes open: they would never come to their end.
            drop(group);
            status
        };
        let (mut printed, mut complained) = (Printed::with_room(TOKEN_MAX), Printed::with_room(COMPLAINT_MAX));
        let (_, _, status) =
            tokio::join!(printed.read(out, TOKEN_MAX), complained.read(complaint, COMPLAINT_MAX), ended);
        Ok::<_, String>((printed, complained, status.map_err(|error| error.to_string())?))
    };
    let told = timeout(COMMAND_MAX, told).await;
    let (printed, complaint, status) =
        told.map_err(|_| format!("did not end within {} s and was killed", COMMAND_MAX.as_secs()))??;
    if !status.success() {
        return Err(format!("{status}{}", first_line(&complaint)));
    }
    match printed {
        Printed { octets, whole: true } => parse(&octets).map_err(|text| format!("{text}{}", first_line(&complaint))),
        Printed { .. } => Err(format!("printed more than {TOKEN_MAX} octets")),
    }
}

/// A token and for how long it is good, where that was told.
#[derive(Debug)]
pub(super) struct Granted {
    pub token: Secret,
    pub lifetime: Option<Duration>,
}

/// `{"access_token": ..., "expires_in": ...}` (RFC 6749 section 5.1); other members are left alone.
#[derive(Deserialize)]
struct Response {
    access_token: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// Reads a token: bare, or as an authorization server's response.
///
/// # Errors
/// Says what is wrong with it, and nothing of it.
pub(super) fn parse(octets: &[u8]) -> Result<Granted, String> {
    let text = octets.trim_ascii();
    let (token, lifetime) = if text.starts_with(b"{") {
        let response: Response =
            serde_json::from_slice(text).map_err(|_| "no JSON object with \"access_token\"".to_owned())?;
        let seconds = response.expires_in.and_then(|value| match value {
            serde_json::Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        });
        let lifetime = seconds.map(|seconds: u64| Duration::from_secs(seconds.min(LIFETIME_MAX)));
        (Secret::new(response.access_token.into_bytes()), lifetime)
    } else {
        (Secret::new(text.to_vec()), None)
    };
    // RFC 6750 section 2.1; a little more leniently, but nothing that could end the line or the field.
    match token.expose() {
        [] => Err("no token".to_owned()),
        octets if octets.len() > TOKEN_MAX => Err(format!("a token of more than {TOKEN_MAX} octets")),
        octets if !octets.iter().all(u8::is_ascii_graphic) => Err("not one token: a line of text".to_owned()),
        _ => Ok(Granted { token, lifetime }),
    }
}

/// `: ` and the first line of a complaint, as text; nothing when there was none.
fn first_line(complaint: &Printed) -> String {
    let line = complaint.first_line();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// Shared by all sessions of a credential.
pub(super) type SharedTokenCommand = Arc<TokenCommand>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shell(script: &str) -> TokenCommand {
        TokenCommand::new(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
    }

    fn runs(folder: &Path) -> usize {
        std::fs::read_to_string(folder.join("runs")).map_or(0, |text| text.lines().count())
    }

    #[test]
    fn a_token_is_read_bare_or_from_a_response_and_nothing_else_is_one() {
        for (text, token, seconds) in [
            ("ya29.a0Af\n", "ya29.a0Af", None),
            ("  eyJ0.e30.-_=\r\n", "eyJ0.e30.-_=", None),
            ("{\"access_token\":\"a\",\"expires_in\":3600,\"token_type\":\"Bearer\"}", "a", Some(3_600)),
            ("{\"access_token\":\"a\",\"expires_in\":\"3599\"}\n", "a", Some(3_599)),
            ("{\"access_token\":\"a\",\"expires_in\":99999999999}", "a", Some(86_400)),
            ("{\"access_token\":\"a\",\"expires_in\":-1}", "a", None),
        ] {
            let granted = parse(text.as_bytes()).unwrap();
            assert_eq!(granted.token.expose(), token.as_bytes());
            assert_eq!(granted.lifetime.map(|lifetime| lifetime.as_secs()), seconds, "{text}");
        }
        for text in [
            "",
            "\n",
            "two words",
            "two\nlines",
            "a\u{1}b",
            "b\u{fc}",
            "{",
            "{}",
            "{\"access_token\":\"\"}",
            "{\"access_token\":1}",
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(!error.contains("words") && !error.contains("lines"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_command_runs_once_for_all_who_wait_and_again_when_its_token_was_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let command = Arc::new(shell(&format!(
            "echo x >> {path}/runs; sleep 0.1; printf '{{\"access_token\":\"t%s\",\"expires_in\":3600}}' $(wc -l < {path}/runs)"
        )));
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let command = Arc::clone(&command);
                tokio::spawn(async move { command.token(None).await.unwrap() })
            })
            .collect();
        let mut first = None;
        for answer in asked {
            first = Some(answer.await.unwrap());
        }
        let first = first.unwrap();
        assert_eq!((first.expose(), runs(folder.path())), (&b"t1"[..], 1));
        let (a, b) = tokio::join!(command.token(Some(&first)), command.token(Some(&first)));
        assert_eq!((a.unwrap().expose(), b.unwrap().expose(), runs(folder.path())), (&b"t2"[..], &b"t2"[..], 2));
    }

    #[tokio::test]
    async fn a_command_that_takes_longer_than_anybody_waits_still_tells_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let command = shell(&format!("echo x >> {}/runs; sleep 2; echo t", folder.path().display()));
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(200), command.token(None)).await.is_err());
        }
        assert_eq!(command.token(None).await.unwrap().expose(), b"t");
        assert_eq!(runs(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_token_is_replaced_before_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let command = shell(&format!("echo x >> {path}/runs; echo '{{\"access_token\":\"t\",\"expires_in\":1}}'"));
        command.token(None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(800)).await;
        command.token(None).await.unwrap();
        assert_eq!(runs(folder.path()), 2);
    }

    #[tokio::test]
    async fn a_failure_is_told_with_the_first_line_of_the_complaint_and_never_the_output() {
        for (script, expected) in [
            ("echo s3cret; echo 'no\tgrant' >&2; echo more >&2; exit 3", "/bin/sh: exit status: 3: no grant"),
            ("exit 1", "/bin/sh: exit status: 1"),
            ("kill -9 $$", "/bin/sh: signal: 9 (SIGKILL)"),
            ("echo why >&2", "/bin/sh: no token: why"),
            ("echo s3cret s3cret", "/bin/sh: not one token: a line of text"),
            ("yes s3cret | head -c 20000", "/bin/sh: printed more than 16384 octets"),
        ] {
            let error = shell(script).token(None).await.unwrap_err().to_string();
            assert_eq!(error, expected);
        }
        let missing = TokenCommand::new(vec!["/nonexistent/token".to_owned()]).token(None).await.unwrap_err();
        assert!(missing.to_string().starts_with("/nonexistent/token: cannot be run: "), "{missing}");
    }

    #[tokio::test]
    async fn after_a_failure_the_command_rests() {
        let folder = tempfile::tempdir().unwrap();
        let command = shell(&format!("echo x >> {}/runs; exit 1", folder.path().display()));
        for _ in 0..10 {
            command.token(None).await.unwrap_err();
        }
        assert_eq!(runs(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_command_that_took_long_to_fail_rests_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let command = shell(&format!("echo x >> {}/runs; sleep 5.2; exit 1", folder.path().display()));
        let both = tokio::join!(command.token(None), command.token(None));
        assert!(both.0.is_err() && both.1.is_err());
        assert_eq!(runs(folder.path()), 1);
    }

    #[tokio::test]
    async fn what_the_command_has_left_running_neither_delays_nor_spoils_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let command = shell(&format!("(sleep 30; echo late > {}/late) & echo t", folder.path().display()));
        let begun = Instant::now();
        assert_eq!(command.token(None).await.unwrap().expose(), b"t");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn the_command_gets_nothing_of_our_environment_and_leaves_no_process_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let command = shell(&format!("(sleep 1; echo late > {path}/late) >/dev/null 2>&1 & env > {path}/env; echo t"));
        command.token(None).await.unwrap();
        let environment = std::fs::read_to_string(folder.path().join("env")).unwrap();
        assert!(environment.contains("PATH=/usr/local/sbin:"), "{environment}");
        assert!(!environment.contains("CARGO"), "{environment}");
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(!folder.path().join("late").exists());
    }
}
