//! What an attacker, a careless program or a picky postmaster would try on the outbound side.

use super::*;

/// The signatures of a message with its field names written without a blank before the colon: the same message in relaxed
/// canonicalization (RFC 6376 section 3.4.2).
async fn verified(wire: &[u8]) -> Vec<(String, bool)> {
    Verifier::new().verify(text(wire).replace(" :", ":").as_bytes()).await
}

async fn sealed(pipeline: &Pipeline, message: &[u8]) -> Vec<u8> {
    pass(pipeline, &mail(desk(), "", "ann@b.example", message)).await.unwrap()
}

fn seal_len(wire: &[u8]) -> usize {
    let mut builder = HeadersBuilder::new(1 << 22);
    let headers = builder.push(wire).unwrap().unwrap().headers;
    headers.first("X-Deskmilter-Seal").unwrap().raw().len()
}

#[tokio::test]
async fn a_blank_before_the_colon_does_not_leave_the_field_unsigned() {
    let pipeline = site().pipeline(CONFIG);
    for name in ["From", "Subject", "Date", "To", "X-Mailer"] {
        let odd = NOTIFICATION.replacen(&format!("{name}:"), &format!("{name} :"), 1);
        let wire = pass(&pipeline, &mail(desk(), "", "ann@b.example", odd.as_bytes())).await.unwrap();
        assert_eq!(verified(&wire).await, passes(&["rsa", "rsa", "ed"]), "{}", text(&wire));
    }
}

#[tokio::test]
async fn a_form_feed_which_verifiers_read_differently_is_refused() {
    let pipeline = site().pipeline(CONFIG);
    let odd = NOTIFICATION.replace("Re: a", "Re:\x0ca");
    let reply = pass(&pipeline, &mail(desk(), "", "ann@b.example", odd.as_bytes())).await;
    assert!(reply.is_err_and(|reply| reply.starts_with("550 5.6.0 form feed")));
}

#[tokio::test]
async fn tls_older_than_1_2_is_as_good_as_none() {
    let pipeline = site().pipeline(CONFIG);
    for (version, good) in
        [("SSLv3", false), ("TLSv1", false), ("TLSv1.1", false), ("TLSv1.2", true), ("TLSv1.3", true)]
    {
        let tls = Some(TlsFacts { version: version.to_owned(), cipher: "x".to_owned() });
        let mail = mail(Connection { tls, ..desk() }, "", "ann@b.example", NOTIFICATION.as_bytes());
        let reply = pass(&pipeline, &mail).await.map(|_| ());
        assert_eq!(reply.is_ok(), good, "{version}: {reply:?}");
        assert!(good || reply.unwrap_err().starts_with("530 5.7.0"), "{version}");
    }
}

#[tokio::test]
async fn thousands_of_fields_to_take_away_are_refused_and_not_handed_to_the_mta() {
    let pipeline = site().pipeline(CONFIG);
    let odd = format!("{}{NOTIFICATION}", "X-Mailer: a\r\n".repeat(5_000));
    let reply = pass(&pipeline, &mail(desk(), "", "ann@b.example", odd.as_bytes())).await;
    assert!(reply.is_err_and(|reply| reply.starts_with("55")));
}

#[tokio::test]
async fn a_seal_is_never_larger_than_a_field_that_postfix_takes_whole() {
    let pipeline = site().pipeline(&with_filter());
    for filling in ["\u{fc}", "\"", "\\", "\u{1}", "\t.", "a"] {
        let long = format!("X-Mailer: {}\r\n", (filling.repeat(400) + "\r\n ").repeat(100 / filling.len() - 1) + "x");
        let odd = NOTIFICATION.replace("X-Mailer: Zendesk Mailer\r\n", &long);
        // A constant would be put right before it is sealed.
        let odd = odd.replace("X-Mailer", "References").into_bytes();
        assert!(seal_len(&sealed(&pipeline, &odd).await) < 100_000, "{filling:?}");
    }
    let many = format!("{}{NOTIFICATION}", "Cc:\r\n".repeat(9_000));
    assert!(seal_len(&sealed(&pipeline, many.as_bytes()).await) < 100_000);
    let date = NOTIFICATION.replace("09:00:00 +0000", &format!("09:00:00 +0000\r\n ({})", "x\r\n ".repeat(20_000)));
    assert!(seal_len(&sealed(&pipeline, date.as_bytes()).await) < 100_000);
}

#[tokio::test]
async fn where_from_was_changed_and_cannot_be_put_back_nothing_is_signed() {
    let pipeline = site().pipeline(&with_filter());
    let long = |n: usize| format!("X-Zendesk-Email-Id: {}\r\n", "x\r\n ".repeat(n) + "x");
    let id = "X-Zendesk-Email-Id: 01HZXAMPLE\r\n";
    let comment = format!("From: Desk ({}) <support@acme.example>", "x\r\n ".repeat(12_000));
    let from = "From: Desk <support@acme.example>";
    for message in [NOTIFICATION.replace(id, &long(9_500)), NOTIFICATION.replace(from, &comment)] {
        let out = text(&sealed(&pipeline, message.as_bytes()).await);
        let back = connection("127.0.0.1", None, false);
        let spoofed = out.replacen("From: Desk", "From: Boss <boss@acme.example>\r\nX-Old: Desk", 1);
        let wire = pass(&pipeline, &mail(back.clone(), "", "ann@b.example", spoofed.as_bytes())).await.unwrap();
        let wire = text(&wire);
        let boss = wire.contains("\r\nFrom: Boss") || wire.starts_with("From: Boss");
        assert!(!(boss && wire.contains("DKIM-Signature")), "a spoofed author is signed");
        let wire = pass(&pipeline, &mail(back, "", "ann@b.example", out.as_bytes())).await.unwrap();
        assert!(text(&wire).contains("DKIM-Signature"), "what the filter left alone is signed");
    }
}

#[tokio::test]
async fn guarded_names_that_are_preserved_in_another_spelling_do_not_spoil_the_seal() {
    let text_of = with_filter().replace(
        "[[connector.dkim]]\nselector = \"rsa\"",
        "[connector.preserve]\nheaders = [\"from\", \"message-id\", \"X-Mailer\"]\n[[connector.dkim]]\nselector = \"rsa\"",
    );
    let pipeline = site().pipeline(&text_of);
    let out = text(&sealed(&pipeline, NOTIFICATION.as_bytes()).await);
    let back = connection("127.0.0.1", None, false);
    let wire = pass(&pipeline, &mail(back, "", "ann@b.example", out.as_bytes())).await.unwrap();
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));
}

#[tokio::test]
async fn a_seal_that_is_cut_anywhere_or_stands_on_another_message_is_worth_nothing() {
    let pipeline = site().pipeline(&with_filter());
    let out = text(&sealed(&pipeline, NOTIFICATION.as_bytes()).await);
    let (seal, rest) = out.split_at(out.find("From:").unwrap());
    let back = || connection("127.0.0.1", None, false);
    for at in (20..seal.len() - 3).filter(|&at| !seal[at..].starts_with(['\r', '\n', '\t'])) {
        let cut = format!("{}\r\n{rest}", seal[..at].trim_end());
        let wire = pass(&pipeline, &mail(back(), "", "ann@b.example", cut.as_bytes())).await.unwrap();
        assert!(!text(&wire).contains("DKIM-Signature"), "{at} of {}", seal.len());
    }
    let other = rest.replace("1_sprut", "2_sprut").replace("Desk <", "Boss <");
    for message in
        [rest.replace("09:00:00", "09:00:01"), other, rest.replace("From: Desk <support@acme.example>\r\n", "")]
    {
        let wire = pass(&pipeline, &mail(back(), "", "ann@b.example", format!("{seal}{message}").as_bytes())).await;
        let wire = text(&wire.unwrap());
        let signed = wire.contains("DKIM-Signature");
        assert!(!signed || wire.contains("From: Desk <support@acme.example>"), "{wire}");
    }
    // Two seals: the same one twice does no harm, and neither is left.
    let twice = format!("{seal}{seal}{rest}");
    let wire = pass(&pipeline, &mail(back(), "", "ann@b.example", twice.as_bytes())).await.unwrap();
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));
    assert!(!text(&wire).contains("X-Deskmilter-Seal"));
}

#[tokio::test]
async fn a_login_cannot_get_a_signature_for_an_author_that_is_not_its_own() {
    let pipeline = site().pipeline(CONFIG);
    for from in [
        "support@acme.example, boss@acme.example",
        "(support@acme.example) boss@acme.example",
        "boss@acme.example (support@acme.example)",
        "\"support@acme.example\" <boss@acme.example>",
        "\"support\"@acme.example <boss@acme.example>",
        "<@acme.example:boss@acme.example>",
        "<support@acme.example> <boss@acme.example>",
        "support@acme.example:boss@acme.example",
        "support@acme.example; boss@acme.example",
        "Desk: support@acme.example, boss@acme.example;",
        "=?utf-8?Q?support=40acme.example?=",
        "=?utf-8?Q?support?=@acme.example",
        "\"=?utf-8?Q?a?=\" boss@acme.example",
        "support@acme.example.evil.example",
        "support@evil.example@acme.example",
        "support%evil.example@acme.example",
        "support@sub.acme.example",
        "support@acme.example\0.evil.example",
        "support@acme.example\u{a0}.evil.example",
        "support@acme.example\u{200b}, boss@acme.example",
        "support@\u{430}cme.example",
        "support\\@evil.example",
        "supp\u{f6}rt@acme.example",
        "support+boss@evil.example",
        "\r\n boss@acme.example",
        "",
        " ",
        "@acme.example",
        "support@",
        "support",
        "<>",
    ] {
        let odd = NOTIFICATION.replace("Desk <support@acme.example>", from);
        let reply = pass(&pipeline, &mail(desk(), "", "ann@b.example", odd.as_bytes())).await;
        assert!(
            reply.clone().is_err_and(|reply| reply.starts_with("550 5.")),
            "{from:?}: {:?}",
            reply.map(|w| text(&w))
        );
    }
    for honest in [
        "\r\n support@acme.example",
        "Desk: support@acme.example;",
        "support@acme.example.",
        "SUPPORT@ACME.EXAMPLE",
        "\"Desk, \\\"the\\\" one\" <support+1@acme.example>",
        "=?utf-8?Q?boss=40acme=2Eexample?= <support@acme.example>",
    ] {
        let odd = NOTIFICATION.replace("Desk <support@acme.example>", honest);
        let reply = pass(&pipeline, &mail(desk(), "", "ann@b.example", odd.as_bytes())).await;
        assert!(reply.is_ok(), "{honest:?}: {reply:?}");
    }
}

#[tokio::test]
async fn hostile_sizes_take_no_more_than_their_time() {
    let (pipeline, filter) = (site().pipeline(CONFIG), site().pipeline(&with_filter()));
    let rest = NOTIFICATION.split_once("\r\n").unwrap().1;
    let size = 1 << 18;
    for (what, head) in [
        ("@", format!("From: {}\r\n", "a@".repeat(size / 2))),
        ("@ folded", format!("From: {}\r\n", "a@b.example,\r\n ".repeat(size / 15))),
        ("commas", format!("From: {}\r\n", ",".repeat(size))),
        ("open comments", format!("From: {}\r\n", "(".repeat(size))),
        ("comments", format!("From: {}\r\n", "(a@b.example)".repeat(size / 13))),
        ("quotes", format!("From: {}\r\n", "\"a@b\"@c,".repeat(size / 8))),
        ("angles", format!("From: {}\r\n", "<".repeat(size))),
        ("encoded", format!("From: {}\r\n", "=?utf-8?Q?a=40b?= ".repeat(size / 18))),
        ("blanks", format!("From: {}a@b\r\n", " ".repeat(size))),
        ("From fields", "From: a@acme.example\r\n".repeat(size / 22)),
        ("Cc fields", format!("From: support@acme.example\r\n{}", "Cc: a\r\n".repeat(9_000))),
        ("signatures", format!("From: support@acme.example\r\n{}", "DKIM-Signature: v=1; h=a:b:c\r\n".repeat(9_000))),
        (
            "one signature",
            format!("From: support@acme.example\r\nDKIM-Signature: h={}\r\n", "a:\r\n ".repeat(size / 5)),
        ),
        (
            "seals",
            format!("From: support@acme.example\r\n{}", "X-Deskmilter-Seal: v=1; p=e30; mac=AAAA\r\n".repeat(90)),
        ),
    ] {
        let message = format!("{head}{rest}");
        for pipeline in [&pipeline, &filter] {
            for client in [desk(), connection("127.0.0.1", None, false), connection("127.0.0.1", Some("ann"), true)] {
                let mail = {
                    let mut builder = HeadersBuilder::new(1 << 24);
                    let headers = builder.push(message.as_bytes()).unwrap().unwrap().headers;
                    let mut mail = mail(client, "support@acme.example", "ann@b.example", NOTIFICATION.as_bytes());
                    mail.headers = headers;
                    mail
                };
                let start = Instant::now();
                let _ = pipeline.judge(&mail).await;
                let took = start.elapsed();

                assert!(took < Duration::from_secs(20), "{what}: {took:?}");
            }
        }
    }
}

#[tokio::test]
async fn no_line_that_we_add_is_longer_than_a_line_may_be() {
    let names: Vec<String> = (0..50).map(|n| format!("\"X-{n:02}{}\"", "x".repeat(72))).collect();
    let text_of = CONFIG.replace(
        "[[connector.dkim]]\nselector = \"rsa\"",
        &format!("[connector.preserve]\nheaders = [{}]\n[[connector.dkim]]\nselector = \"rsa\"", names.join(",")),
    );
    let fields: String = names.iter().map(|name| format!("{}: a\r\n", name.trim_matches('"'))).collect();
    let message = format!("{fields}{NOTIFICATION}");
    let wire = pass(&site().pipeline(&text_of), &mail(desk(), "", "ann@b.example", message.as_bytes())).await.unwrap();
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));
    let longest = text(&wire).lines().map(str::len).max().unwrap();
    assert!(longest < 200, "{longest}");
}

#[tokio::test]
async fn an_existing_signature_that_oversigns_an_absent_constant_still_verifies() {
    use mail_auth::dkim::{Canonicalization, DkimSigner};
    use mail_auth::headers::HeaderWriter;
    let pem = std::fs::read(site().folder.path().join("rsa.pem")).unwrap();
    let original = NOTIFICATION.replace("X-Mailer: Zendesk Mailer\r\n", "").replace("auto-generated", "no");
    for how in [Canonicalization::Simple, Canonicalization::Relaxed] {
        let key = SigningKey::parse(&crate::config::Secret::new(pem.clone())).unwrap();
        let signer = DkimSigner::from_key(&key).domain("acme.example").selector("rsa");
        let signer = signer.headers(["From", "X-Mailer", "Auto-Submitted"]).header_canonicalization(how);
        let signed = signer.sign(original.as_bytes()).unwrap().to_header() + &original;
        let wire = pass(&site().pipeline(CONFIG), &mail(desk(), "", "ann@b.example", signed.as_bytes())).await.unwrap();
        assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed", "rsa"]), "{}", text(&wire));
        assert!(!text(&wire).contains("X-Mailer: Z"));
    }
}
