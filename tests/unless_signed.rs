//! Signing that depends on what DNS says of signatures that are there already.

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use deskmilter::config::Config;
    use deskmilter::dkim::{NewKey, SigningKey};
    use deskmilter::mail::{
        Body, Budget, Client, Connection, Envelope, HeaderEdit, HeadersBuilder, Mail, Path as MailPath, TlsFacts,
    };
    use deskmilter::pipeline::{Judge, Pipeline, SiteKey};
    use support::{NameServer, Signer, Zone};

    fn mail(message: &[u8]) -> Mail {
        let mut builder = HeadersBuilder::new(1 << 20);
        let block = builder.push(message).unwrap().unwrap();
        Mail {
            connection: Arc::new(Connection {
                client: Client::Network("192.0.2.7".parse().unwrap()),
                tls: Some(TlsFacts::default()),
                login: Some("desk".to_owned()),
                ..Connection::default()
            }),
            envelope: Envelope {
                sender: MailPath::parse(b"support@acme.example").unwrap(),
                recipients: vec![MailPath::parse(b"ann@b.example").unwrap()],
                ..Envelope::default()
            },
            headers: block.headers,
            body: Body::from_octets(block.body),
            shortfall: None,
            queue_id: None,
        }
    }

    #[tokio::test]
    async fn unless_signed_trusts_a_valid_signature_of_the_same_domain_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        std::fs::write(&key, SigningKey::generate(NewKey::Ed25519).unwrap().expose()).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let (own, other) = (Signer::new("acme.example", "desk"), Signer::new("zendesk.example", "desk"));
        let unpublished = Signer::new("acme.example", "unpublished");
        let server = NameServer::start(&other.publish(own.publish(Zone::new())));
        let config = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\n[authentication]\nname_servers = [\"{}\"]\n\
             [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\nmode = \"outbound-only\"\naddresses = [\"support@acme.example\"]\n\
             [connector.submission]\nlogins = [{{ name = \"desk\", addresses = [\"support@acme.example\"] }}]\n\
             [[connector.dkim]]\nselector = \"s\"\nkey_file = \"key.pem\"\nsign = \"unless-signed\"\ncover = \"core\"\n",
            server.address()
        );
        let config = Config::parse(&config, &folder.path().join("deskmilter.toml")).unwrap();
        let site_key = SiteKey::parse(&SiteKey::generate().unwrap()).unwrap();
        let pipeline = Pipeline::new(&config, site_key, &Budget::new(1 << 24)).unwrap();
        let message = b"From: support@acme.example\r\nTo: ann@b.example\r\nSubject: a\r\n\
            Date: Sun, 22 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1@acme.example>\r\n\r\nHello\r\n";
        let changed = String::from_utf8(own.sign(message)).unwrap().replace("Hello", "Changed");
        for (what, message, signs) in [
            ("not signed", message.to_vec(), true),
            ("signed by the same domain", own.sign(message), false),
            ("signed by another domain", other.sign(message), true),
            ("signed by a key that nobody can find", unpublished.sign(message), true),
            ("changed after it was signed", changed.into_bytes(), true),
            ("signed by both", other.sign(&own.sign(message)), false),
        ] {
            let verdict = pipeline.judge(&mail(&message)).await;
            let signature = |edit: &HeaderEdit| matches!(edit, HeaderEdit::Prepend(f) if f.is("DKIM-Signature"));
            assert_eq!(verdict.edits.iter().any(signature), signs, "{what}: {verdict:?}");
            assert_eq!(verdict.edits.len(), usize::from(signs), "{what}: {verdict:?}");
        }
    }
}
