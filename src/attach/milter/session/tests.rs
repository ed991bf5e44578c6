use super::*;
use crate::attach::milter::command::Offer;
use crate::attach::milter::message::RECIPIENTS_MAX;

struct Talk {
    session: Session,
    replies: BytesMut,
}

impl Talk {
    fn new(protocol: u32) -> Self {
        let limits = MessageLimits { message_size: 1000, header_size: 1000 };
        let mut talk = Self { session: Session::new(limits), replies: BytesMut::new() };
        talk.say(b'O', &[&[0, 0, 0, 6, 0, 0, 0, 0x3f][..], &protocol.to_be_bytes()].concat());
        talk.replies.clear();
        talk
    }

    fn say<'a>(&mut self, code: u8, payload: &'a [u8]) -> Step<'a> {
        let command = Command::parse(code, payload).unwrap();
        self.session.handle(command, |_, envelope| !envelope.recipients.is_empty(), &mut self.replies).unwrap()
    }
}

#[test]
fn what_is_kept_of_an_endless_envelope_is_bounded() {
    let mut talk = Talk::new(u32::MAX);
    talk.say(b'M', b"<a@b.example>\0");
    for _ in 0..RECIPIENTS_MAX + 5 {
        talk.say(b'R', b"<c@d.example>\0");
    }
    talk.say(b'D', &[&b"Ei\0"[..], &vec![b'x'; MACROS_MAX], b"\0"].concat());
    assert_eq!(talk.say(b'E', b""), Step::Complete(b""));
    let complete = talk.session.complete().unwrap();
    assert_eq!(complete.envelope.recipients.len(), RECIPIENTS_MAX);
    assert_eq!(complete.queue_id, None);
}

#[test]
fn no_more_is_kept_of_a_body_that_is_too_large() {
    let mut talk = Talk::new(u32::MAX);
    talk.say(b'M', b"<a@b.example>\0");
    talk.say(b'R', b"<c@d.example>\0");
    talk.say(b'L', b"A\0 b\0");
    assert_eq!(talk.say(b'B', b"fits"), Step::Store(b"fits"));
    assert_eq!(talk.say(b'B', &[b'x'; 1000]), Step::Next);
    assert_eq!(talk.say(b'B', b"fits"), Step::Next);
    talk.say(b'E', b"");
    let complete = talk.session.complete().unwrap();
    assert_eq!((complete.headers.len(), complete.refusal), (1, None));
    assert_eq!(complete.shortfall, Some(Shortfall::TooLarge));
}

#[test]
fn whether_mail_concerns_us_is_asked_once_with_login_tls_and_all_recipients() {
    let mut talk = Talk::new(u32::MAX);
    let asked = std::cell::RefCell::new(Vec::new());
    let steps: [(u8, &[u8]); 9] = [
        (b'D', b"H{tls_version}\0TLSv1.3\0"),
        (b'H', b"desk.example\0"),
        (b'D', b"M{auth_authen}\0zendesk-support\0"),
        (b'M', b"<a@b.example>\0"),
        (b'R', b"<c@d.example>\0"),
        (b'R', b"<e@f.example>\0"),
        (b'T', b""),
        (b'L', b"A\0 b\0"),
        (b'N', b""),
    ];
    for (code, payload) in steps {
        let concerns = |connection: &Connection, envelope: &Envelope| {
            let tls = connection.tls.is_some();
            asked.borrow_mut().push((connection.login.clone(), tls, envelope.recipients.len()));
            true
        };
        talk.session.handle(Command::parse(code, payload).unwrap(), concerns, &mut talk.replies).unwrap();
    }
    assert_eq!(asked.into_inner(), [(Some("zendesk-support".to_owned()), true, 2)]);
}

#[test]
fn nothing_of_one_message_or_connection_is_left_for_the_next() {
    let last = std::cell::RefCell::new(None);
    let mut talk = Talk::new(u32::MAX);
    let mut say = |code: u8, payload: &[u8]| {
        let concerns = |connection: &Connection, envelope: &Envelope| {
            let sender = envelope.sender.as_str().to_owned();
            *last.borrow_mut() =
                Some((connection.login.clone(), connection.tls.is_some(), connection.client.ip().is_some(), sender));
            true
        };
        talk.session.handle(Command::parse(code, payload).unwrap(), concerns, &mut talk.replies).unwrap();
        if code == b'E' {
            talk.session.complete();
        }
    };
    let rest: [(u8, &[u8]); 4] = [(b'R', b"<c@d.example>\0"), (b'T', b""), (b'N', b""), (b'E', b"")];
    let first: [(u8, &[u8]); 6] = [
        (b'D', b"C{tls_version}\0TLSv1.3\0j\0mx\0"),
        (b'C', b"desk.example\x004\x12\x34192.0.2.7\0"),
        (b'D', b"H{tls_version}\0TLSv1.3\0"),
        (b'H', b"desk.example\0"),
        (b'D', b"M{auth_authen}\0zendesk-support\0"),
        (b'M', b"<a@b.example>\0"),
    ];
    for between in [&b""[..], b"A", b"K", b"C", b"H"] {
        for (code, payload) in first.into_iter().chain(rest).chain(first) {
            say(code, payload);
        }
        assert_eq!(last.borrow().as_ref().unwrap().0.as_deref(), Some("zendesk-support"));
        for &code in between {
            say(code, if code == b'C' { b"other.example\0U" } else { b"other.example\0" });
        }
        say(b'M', b"<>\0");
        rest.into_iter().for_each(|(code, payload)| say(code, payload));
        let (login, tls, address, sender) = last.borrow_mut().take().unwrap();
        assert_eq!((login, sender.as_str()), (None, ""), "{between:?}");
        // A client's TLS and address last as long as its connection.
        assert_eq!((tls, address), (matches!(between, b"" | b"A" | b"H"), matches!(between, b"" | b"A" | b"H")));
    }
}

#[test]
fn a_recipient_that_is_refused_is_none_of_the_message_and_the_mta_waits_for_each_answer() {
    let mut talk = Talk::new(u32::MAX);
    talk.session = Session::new(talk.session.limits).asking_recipients(true);
    let offer = [&[0, 0, 0, 6, 0, 0, 0, 0x3f][..], &u32::MAX.to_be_bytes()].concat();
    talk.say(b'O', &offer);
    assert!(talk.session.agreement().unwrap().answers(Event::Rcpt));
    talk.say(b'M', b"<a@b.example>\0");
    talk.replies.clear();
    for (to, refusal) in [("c@d.example", None), ("e@f.example", Some(Reply::new(452, 5, 3, "next time")))] {
        let payload = format!("<{to}>\0");
        let Step::Recipient(path) = talk.say(b'R', payload.as_bytes()) else { panic!("nobody asked") };
        assert_eq!((path.as_str(), talk.replies.len()), (to, 0), "no answer before the question");
        talk.session.recipient(path, refusal, &mut talk.replies);
        talk.replies.clear();
    }
    // What the MTA refused itself needs no question, but its answer.
    talk.say(b'D', b"R{rcpt_mailer}\0error\0");
    assert_eq!(talk.say(b'R', b"<g@h.example>\0"), Step::Next);
    assert_eq!(&talk.replies[..], b"\0\0\0\x01c");
    talk.say(b'E', b"");
    let recipients = talk.session.complete().unwrap().envelope.recipients;
    assert_eq!(recipients, [Path::parse(b"c@d.example").unwrap()]);
}

#[test]
fn before_negotiation_nothing_but_quit_has_a_meaning() {
    let limits = MessageLimits { message_size: 1000, header_size: 1000 };
    let mut replies = BytesMut::new();
    for code in *b"DCHMRTLNBEUAK!" {
        let command = Command::parse(code, b"C\0\x004\0\0\0").unwrap();
        let mut session = Session::new(limits);
        assert_eq!(session.handle(command, |_, _| true, &mut replies), Err(SessionError::NotNegotiated), "{code}");
    }
    assert_eq!(Session::new(limits).handle(Command::Quit, |_, _| true, &mut replies), Ok(Step::Close));
    let offer = Offer { version: 6, actions: 0, protocol: 0 };
    assert!(Session::new(limits).handle(Command::Negotiate(offer), |_, _| true, &mut replies).is_err());
    assert!(replies.is_empty());
}

#[test]
fn a_large_field_costs_nothing_once_it_is_kept() {
    let mut talk = Talk::new(0);
    talk.session.set_limits(MessageLimits { message_size: 1 << 20, header_size: 1 << 20 });
    talk.say(b'M', b"<a@b.example>\0");
    talk.say(b'R', b"<c@d.example>\0");
    talk.say(b'L', &[&b"A\0"[..], &vec![b'x'; 100_000], b"\0"].concat());
    assert_eq!(talk.session.header_octets(), 100_005);
    assert!(talk.session.value.capacity() <= VALUE_KEPT);
}
