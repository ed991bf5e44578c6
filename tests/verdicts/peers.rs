//! The peers, reached through tests/peers/verify.py.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::dkim::{Canonicalization, DkimSigner};
use mail_auth::headers::HeaderWriter;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::cases::{By, Case, Draft, Keys, Sign};

/// Debian's interpreter: the peers are Debian packages.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/verify.py");
const IMPORTS: &str = "import dkim, spf, dns.resolver, nacl.signing, ctypes; ctypes.CDLL('libopendmarc.so.2'); \
     open('/usr/share/publicsuffix/public_suffix_list.dat')";

/// The verdicts on one message.
pub struct Found {
    pub dkim: Vec<String>,
    pub spf: String,
    pub dmarc: String,
}

/// Fails with a clear word where a peer is missing.
pub fn require() {
    let python = Command::new(PYTHON).args(["-c", IMPORTS]).output();
    let missing = match python {
        Ok(output) if output.status.success() => None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().map(str::to_owned),
        Err(error) => Some(format!("{PYTHON}: {error}")),
    };
    let missing = missing.or_else(|| {
        [("dnsmasq", "--version"), ("openssl", "version")]
            .into_iter()
            .find(|(program, argument)| Command::new(program).arg(argument).stdout(Stdio::null()).status().is_err())
            .map(|(program, _)| program.to_owned())
    });
    if let Some(missing) = missing {
        panic!("a verifier to compare with is missing ({missing}): run tests/peers/install.sh");
    }
}

fn script(command: &str, task: &Value) -> Value {
    let mut child =
        Command::new(PYTHON).args([SCRIPT, command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{SCRIPT} {command}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Makes the signatures of all drafts.
pub fn sign(drafts: Vec<Draft>, keys: &Keys) -> Vec<Case> {
    let requests: Vec<Value> = drafts
        .iter()
        .flat_map(|draft| draft.signatures.iter().map(move |sign| (draft, sign)))
        .filter(|(_, sign)| sign.by != By::Ours)
        .map(|(draft, sign)| {
            json!({
                "message": STANDARD.encode(&draft.message),
                "by": if sign.by == By::Dkimpy { "dkimpy" } else { "as told" },
                "key": keys.get(sign.key).private,
                "algorithm": sign.algorithm,
                "canonicalization": sign.canonicalization,
                "tags": sign.tags,
                "headers": sign.headers,
            })
        })
        .collect();
    let answer = script("sign", &Value::Array(requests));
    let mut made = answer.as_array().unwrap().iter().map(|field| STANDARD.decode(field.as_str().unwrap()).unwrap());
    drafts
        .into_iter()
        .map(|draft| {
            let fields: Vec<Vec<u8>> = draft
                .signatures
                .iter()
                .map(|sign| match sign.by {
                    By::Ours => ours(sign, keys, &draft.message),
                    By::Dkimpy | By::AsTold => made.next().unwrap(),
                })
                .collect();
            draft.finish(&fields)
        })
        .collect()
}

fn ours(sign: &Sign, keys: &Keys, message: &[u8]) -> Vec<u8> {
    let key = keys.get(sign.key);
    if sign.algorithm == "ed25519-sha256" {
        let last = |text: &str| STANDARD.decode(text).unwrap();
        signed_with(
            Ed25519Key::from_seed_and_public_key(&last(&key.private), &last(&key.public)).unwrap(),
            sign,
            message,
        )
    } else {
        signed_with(
            RsaKey::<Sha256>::from_key_der(PrivateKeyDer::from_pem_slice(key.private.as_bytes()).unwrap()).unwrap(),
            sign,
            message,
        )
    }
}

fn signed_with(key: impl SigningKey, sign: &Sign, message: &[u8]) -> Vec<u8> {
    let tag = |name: &str| sign.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.clone()).unwrap();
    let canonical = |name: &str| if name == "simple" { Canonicalization::Simple } else { Canonicalization::Relaxed };
    let (header, body) = sign.canonicalization.split_once('/').unwrap();
    DkimSigner::from_key(key)
        .domain(tag("d"))
        .selector(tag("s"))
        .headers(sign.headers.iter().copied())
        .header_canonicalization(canonical(header))
        .body_canonicalization(canonical(body))
        .sign(message)
        .unwrap()
        .to_header()
        .into_bytes()
}

/// What the peers find.
pub fn verify(cases: &[Case], name_server: SocketAddr) -> Vec<Found> {
    let cases: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({
                "message": STANDARD.encode(&case.message),
                "client": case.client,
                "helo": case.helo,
                "sender": case.sender,
            })
        })
        .collect();
    let answer = script("verify", &json!({ "name_server": name_server.to_string(), "cases": cases }));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    answer
        .as_array()
        .unwrap()
        .iter()
        .map(|found| Found {
            dkim: found["dkim"].as_array().unwrap().iter().map(text).collect(),
            spf: text(&found["spf"]),
            dmarc: text(&found["dmarc"]),
        })
        .collect()
}
