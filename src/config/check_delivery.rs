//! The rules of a delivery: a program or an address, one way in, what belongs to the one and not to the other.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use toml::Spanned;

use super::check::Check;
use super::delivery::{
    BaseUrl, Delivery, DeliveryWay, LineEnding, Post, PostProof, Refused, RtTarget, Shape, TicketSystem,
};
use super::raw_delivery::{self as raw, QueueOf};
use super::{Secret, SecretFile};
use crate::mail::Address;

/// Octets of a name (user, queue, action, issuer) or of a path at most.
const NAME_MAX: usize = 255;
/// Header fields that are not ours to choose in a request.
const FIELDS_TAKEN: [&str; 8] =
    ["host", "connection", "content-length", "content-type", "expect", "te", "transfer-encoding", "user-agent"];
/// What GitLab's mail_room shows.
const GITLAB_HEADER: &str = "Gitlab-Mailroom-Api-Request";
/// As whom.
const GITLAB_ISSUER: &str = "gitlab-mailroom";

impl Check<'_, '_> {
    /// `addresses` are the connector's.
    pub(super) fn delivery(
        &mut self,
        connector: &str,
        addresses: &[Address],
        raw: raw::Delivery,
        span: Range<usize>,
    ) -> Option<Delivery> {
        let key = |key: &str| format!("connector.{connector}.delivery.{key}");
        let preset = match raw.preset {
            Some(ref text) => {
                Some(self.choice(&key("preset"), Some(text.clone()), TicketSystem::Rt, &TicketSystem::NAMES)?)
            }
            None => None,
        };
        let usual_command = preset.and_then(TicketSystem::command);
        let by_command = match (&raw.command, &raw.url, usual_command) {
            (Some(command), Some(_), _) => {
                let text = "a message goes to the command or to the url, not to both; remove one";
                self.note(command.span(), &key("command"), text);
                return None;
            }
            (Some(_), None, _) | (None, None, Some(_)) => true,
            (None, Some(url), Some(_)) => {
                let text = "this system takes no mail by HTTP; write its command, or leave both out for the usual one";
                self.note(url.span(), &key("url"), text);
                return None;
            }
            (None, Some(_), None) => false,
            (None, None, None) => {
                let text =
                    "missing; write url = \"https://...\", the ticket system's address, or command = [...], a program";
                self.note(span, &key("url"), text);
                return None;
            }
        };
        let usual_ending = match preset {
            _ if by_command => LineEnding::Lf,
            // What its own rt-mailgate sends, which has it from an MTA.
            Some(TicketSystem::Rt) => LineEnding::Lf,
            _ => LineEnding::Crlf,
        };
        let line_ending =
            self.choice(&key("line_ending"), raw.line_ending.clone(), usual_ending, &LineEnding::NAMES)?;
        let concurrency =
            self.count(&key("concurrency"), raw.concurrency.clone(), if by_command { 4 } else { 10 }, 1, 1_000);
        // Below Postfix's lmtp_data_done_timeout of 600 s, so that our reply always comes before it gives up.
        let deadline = self.duration(&key("deadline"), raw.deadline.clone(), 300, 5, 540);
        let way = if by_command {
            self.of_a_post_alone(connector, &raw);
            let words = match raw.command {
                Some(words) => {
                    self.no_root(&key("command"), words.span());
                    self.command(&key("command"), words, "[\"/usr/local/bin/take-mail\", \"acme\"]")?
                }
                None => {
                    self.no_root(&key("preset"), span);
                    usual_command.unwrap_or_default().iter().map(|&word| word.to_owned()).collect()
                }
            };
            DeliveryWay::Command(words)
        } else {
            DeliveryWay::Post(Box::new(self.post(connector, addresses, preset, raw, span)?))
        };
        Some(Delivery { preset, way, line_ending, concurrency, deadline })
    }

    /// Programs get mail from anybody: they run as a user that may do little.
    fn no_root(&mut self, key: &str, span: Range<usize>) {
        if self.runs_as_root() {
            let text = "no command is run as root; set daemon.user to a user of its own";
            self.note(span, key, text);
        }
    }

    fn of_a_post_alone(&mut self, connector: &str, raw: &raw::Delivery) {
        let others = [
            ("path", &raw.path),
            ("queue", &raw.queue),
            ("action", &raw.action),
            ("username", &raw.username),
            ("password_file", &raw.password_file),
            ("key_header", &raw.key_header),
            ("key_file", &raw.key_file),
            ("jwt_header", &raw.jwt_header),
            ("jwt_issuer", &raw.jwt_issuer),
            ("jwt_secret_file", &raw.jwt_secret_file),
            ("ca_file", &raw.ca_file),
            ("refused", &raw.refused),
        ];
        let spans = others.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?.span())));
        let queues = raw.queues.as_ref().map(|queues| ("queues", queues.span()));
        for (name, span) in spans.chain(queues) {
            let key = format!("connector.{connector}.delivery.{name}");
            self.note(
                span,
                &key,
                "is for a url and means nothing to a command; write it as one of the command's words",
            );
        }
    }

    fn post(
        &mut self,
        connector: &str,
        addresses: &[Address],
        preset: Option<TicketSystem>,
        raw: raw::Delivery,
        span: Range<usize>,
    ) -> Option<Post> {
        let key = |key: &str| format!("connector.{connector}.delivery.{key}");
        let url = raw.url.clone()?;
        let base = match BaseUrl::parse(url.get_ref()) {
            Ok(base) => Some(base),
            Err(text) => {
                self.note(url.span(), &key("url"), format!("{:?} {text}", without_secrets(url.get_ref())));
                None
            }
        };
        let path = match &raw.path {
            None => preset.and_then(TicketSystem::path).unwrap_or_default().to_owned(),
            Some(text) => {
                let path = text.get_ref();
                let plain = |b: u8| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b);
                if !(path.is_empty() || path.starts_with('/')) || path.len() > NAME_MAX || !path.bytes().all(plain) {
                    let message = "not a path; write for example \"/api/tickets.email\", or \"\" for none";
                    self.note(text.span(), &key("path"), message);
                }
                path.clone()
            }
        };
        let shape = self.shape(connector, addresses, preset, &raw)?;
        let refused = self.choice(&key("refused"), raw.refused.clone(), Refused::Defer, &Refused::NAMES)?;
        let ca_file = raw.ca_file.as_ref().map(|path| self.path(path.get_ref()));
        if let (Some(ca_file), Some(BaseUrl { https: false, .. })) = (&raw.ca_file, &base) {
            self.note(ca_file.span(), &key("ca_file"), "is for https and means nothing to this url; remove it");
        }
        let proof = self.proof(connector, preset, raw, span)?;
        Some(Post { url: base?, path, shape, proof, ca_file, refused })
    }

    fn shape(
        &mut self,
        connector: &str,
        addresses: &[Address],
        preset: Option<TicketSystem>,
        raw: &raw::Delivery,
    ) -> Option<Shape> {
        let key = |key: &str| format!("connector.{connector}.delivery.{key}");
        if preset != Some(TicketSystem::Rt) {
            let of_rt = [("queue", &raw.queue), ("action", &raw.action)];
            let spans = of_rt.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.span())));
            for (name, span) in spans.chain(raw.queues.as_ref().map(|queues| ("queues", queues.span()))) {
                self.note(span, &key(name), "is RT's alone; remove it, or write preset = \"rt\"");
            }
            // What mail_room sends: GitLab's API does not take other types there.
            let content_type = if preset == Some(TicketSystem::GitLab) { "text/plain" } else { "message/rfc822" };
            return Some(Shape::Message { content_type });
        }
        let queue = self.name(&key("queue"), raw.queue.as_ref(), "General")?;
        let action = self.name(&key("action"), raw.action.as_ref(), "correspond")?;
        let target = RtTarget { queue, action };
        let mut queues: Vec<(Address, RtTarget)> = Vec::new();
        for QueueOf { address: text, queue, action } in raw.queues.iter().flat_map(Spanned::get_ref) {
            let address = Address::parse(text.get_ref()).ok().filter(|address| addresses.contains(address));
            let Some(address) = address else {
                let message = format!("{:?} is none of the connector's addresses; correct it", text.get_ref());
                self.note(text.span(), &key("queues.address"), message);
                continue;
            };
            if queues.iter().any(|(other, _)| *other == address) {
                self.note(text.span(), &key("queues.address"), format!("{address} is listed twice; remove one"));
            }
            let queue = self.name(&key("queues.queue"), queue.as_ref(), &target.queue)?;
            let action = self.name(&key("queues.action"), action.as_ref(), &target.action)?;
            queues.push((address, RtTarget { queue, action }));
        }
        Some(Shape::RtForm { target, queues })
    }

    /// A name that is one line of text.
    fn name(&mut self, key: &str, text: Option<&Spanned<String>>, usual: &str) -> Option<String> {
        let Some(text) = text else { return Some(usual.to_owned()) };
        let name = text.get_ref();
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            self.note(text.span(), key, "not a name; write one line of text as the ticket system has it");
            return None;
        }
        Some(name.clone())
    }

    fn proof(
        &mut self,
        connector: &str,
        preset: Option<TicketSystem>,
        raw: raw::Delivery,
        span: Range<usize>,
    ) -> Option<PostProof> {
        let key = |key: &str| format!("connector.{connector}.delivery.{key}");
        let files = [
            ("password_file", raw.password_file.as_ref()),
            ("key_file", raw.key_file.as_ref()),
            ("jwt_secret_file", raw.jwt_secret_file.as_ref()),
        ];
        let wanted = match preset {
            Some(TicketSystem::OsTicket) => Some("key_file"),
            Some(TicketSystem::ActionMailbox | TicketSystem::Chatwoot) => Some("password_file"),
            Some(TicketSystem::GitLab) => Some("jwt_secret_file"),
            Some(TicketSystem::Rt | TicketSystem::Zammad | TicketSystem::Otrs) | None => None,
        };
        let given: Vec<_> = files.iter().filter_map(|(name, file)| Some((*name, file.as_ref()?.span()))).collect();
        let system = preset.map_or("this", TicketSystem::as_str);
        match (given.as_slice(), wanted) {
            ([], None) => {}
            ([], Some(wanted)) => {
                self.note(span, &key(wanted), format!("missing; {system} lets in who shows what is in that file"));
                return None;
            }
            ([(name, _)], Some(wanted)) if *name == wanted => {}
            ([_], None) => {}
            ([(name, span)], Some(wanted)) => {
                self.note(span.clone(), &key(name), format!("{system} looks at another proof; write {wanted} instead"));
                return None;
            }
            ([.., (name, span)], _) => {
                let text = "write one of password_file, key_file and jwt_secret_file";
                self.note(span.clone(), &key(name), text);
                return None;
            }
        }
        let loose = [
            ("username", raw.username.as_ref(), raw.password_file.is_some(), "password_file"),
            ("key_header", raw.key_header.as_ref(), raw.key_file.is_some(), "key_file"),
            ("jwt_header", raw.jwt_header.as_ref(), raw.jwt_secret_file.is_some(), "jwt_secret_file"),
            ("jwt_issuer", raw.jwt_issuer.as_ref(), raw.jwt_secret_file.is_some(), "jwt_secret_file"),
        ];
        for (name, text, has_file, file) in loose {
            if let (Some(text), false) = (text, has_file) {
                self.note(text.span(), &key(name), format!("means nothing without {file}"));
            }
        }
        if let Some(path) = raw.password_file {
            let usual = match preset {
                Some(TicketSystem::ActionMailbox | TicketSystem::Chatwoot) => "actionmailbox",
                _ => "",
            };
            if raw.username.is_none() && usual.is_empty() {
                self.note(path.span(), &key("username"), "missing; write the name that the password belongs to");
                return None;
            }
            let username = self.name(&key("username"), raw.username.as_ref(), usual)?;
            if let (true, Some(text)) = (username.contains(':'), &raw.username) {
                self.note(text.span(), &key("username"), "a colon cannot be in a user name (RFC 7617 section 2)");
            }
            let password_file = self.proof_file(&key("password_file"), &path, |_| None);
            return Some(PostProof::Basic { username, password_file });
        }
        if let Some(path) = raw.key_file {
            let header = self.field(&key("key_header"), raw.key_header, "X-API-Key")?;
            let visible = |secret: &Secret| {
                let fit = secret.expose().iter().all(u8::is_ascii_graphic);
                (!fit).then_some("a key is one word of visible ASCII; the file holds something else")
            };
            let key_file = self.proof_file(&key("key_file"), &path, visible);
            return Some(PostProof::Key { header, key_file });
        }
        if let Some(path) = raw.jwt_secret_file {
            let (header, issuer) = match preset {
                Some(TicketSystem::GitLab) => (GITLAB_HEADER, GITLAB_ISSUER),
                _ => ("Authorization", "deskmilter"),
            };
            let header = self.field(&key("jwt_header"), raw.jwt_header, header)?;
            let issuer = self.name(&key("jwt_issuer"), raw.jwt_issuer.as_ref(), issuer)?;
            let base64 = |secret: &Secret| {
                let decoded = STANDARD.decode(secret.expose()).map(zeroize::Zeroizing::new);
                let fit = decoded.is_ok_and(|octets| !octets.is_empty());
                (!fit).then_some("the file must hold the secret in base64, as GitLab keeps it: openssl rand -base64 32")
            };
            let secret_file = self.proof_file(&key("jwt_secret_file"), &path, base64);
            return Some(PostProof::Jwt { header, issuer, secret_file });
        }
        Some(PostProof::None)
    }

    /// A secret that is one line of text; `trouble` says what else is wrong with it.
    fn proof_file(
        &mut self,
        key: &str,
        path: &Spanned<String>,
        trouble: impl Fn(&Secret) -> Option<&'static str>,
    ) -> SecretFile {
        let file = self.secret_file(path.get_ref());
        match file.read_password() {
            Err(error) => self.note(path.span(), key, error.to_string()),
            Ok(secret) => {
                if let Some(text) = trouble(&secret) {
                    self.note(path.span(), key, format!("{}: {text}", file.path().display()));
                }
            }
        }
        file
    }

    /// The name of a header field (RFC 9110 section 5.1).
    fn field(&mut self, key: &str, text: Option<Spanned<String>>, usual: &str) -> Option<String> {
        let Some(text) = text else { return Some(usual.to_owned()) };
        let name = text.get_ref();
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let taken = FIELDS_TAKEN.iter().any(|taken| name.eq_ignore_ascii_case(taken));
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(token) || taken {
            let message =
                format!("{name:?} is no header field that can carry a key; write its name alone, as \"X-API-Key\"");
            self.note(text.span(), key, message);
            return None;
        }
        Some(name.clone())
    }
}

/// An address for a message: what may be a password or a key in it is left out.
fn without_secrets(url: &str) -> String {
    let shown = match (url.split_once("//"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}//...@{host}"),
        (None, Some((_, host))) => format!("...@{host}"),
        (_, None) => url.to_owned(),
    };
    match shown.find(['?', '#']).and_then(|at| shown.get(..=at)) {
        Some(begin) => format!("{begin}..."),
        None => shown,
    }
}

#[cfg(test)]
#[path = "check_delivery/tests.rs"]
mod tests;
