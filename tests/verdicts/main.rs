//! Our verdicts beside those of dkimpy, pyspf and OpenDMARC, on the same messages with the same DNS.
//!
//! Every difference is listed in `differences.rs` with the RFC that settles it. A difference that is not listed fails the
//! test, and so does one that is listed and gone. `DESKMILTER_WRITE_VERDICTS=1` writes the table to docs/verdicts.md.

#![cfg(test)]

mod cases;
mod differences;
mod name_server;
mod peers;
mod zone;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use cases::{Case, Keys};
use deskmilter::config::Config;
use deskmilter::mail::{
    Body, Budget, Client, Connection, Envelope, Header, HeaderEdit, HeadersBuilder, Mail, Path as MailPath,
};
use deskmilter::pipeline::{Judge, Pipeline, SiteKey};
use differences::{DIFFERENCES, Difference};
use name_server::NameServer;
use peers::Found;

/// Where the table is kept.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verdicts.md");
/// Set to anything, it has the table written.
const WRITE: &str = "DESKMILTER_WRITE_VERDICTS";

/// One line of the table.
struct Row {
    case: &'static str,
    method: &'static str,
    ours: String,
    theirs: String,
    equal: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn our_verdicts_are_those_of_dkimpy_pyspf_and_opendmarc_or_the_rfc_says_why_not() {
    peers::require();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let keys = Keys::generate();
    let server = NameServer::start(&zone::records(&keys));
    let cases = peers::sign(cases::drafts(now), &keys);
    let mut names: Vec<_> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two cases of one name");
    let theirs = peers::verify(&cases, server.address);
    let pipeline = Arc::new(pipeline(&server));

    // Side by side: those whose name server is down take their time.
    let judging: Vec<_> = cases
        .into_iter()
        .map(|case| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move { (case.name, judge(&pipeline, &case).await) })
        })
        .collect();
    let mut rows = Vec::new();
    for (judged, theirs) in judging.into_iter().zip(theirs) {
        let (name, ours) = judged.await.unwrap();
        rows.extend(compare(name, &ours, &theirs));
    }
    let table = table(&rows);
    println!("{table}");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(DOCUMENT, document(&table)).unwrap();
    }
    assert_eq!(unexplained(&rows), Vec::<String>::new());
    let written = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(written.contains(&arguments()), "docs/verdicts.md is out of date: run this test with {WRITE}=1");
}

fn pipeline(server: &NameServer) -> Pipeline {
    let text = format!(
        "[daemon]\nhostname = \"mx.acme.example\"\n[authentication]\nname_servers = [\"{}\"]\ndns_timeout = \"10s\"\n\
         [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\nmode = \"outbound-only\"\naddresses = [\"support@acme.example\"]\n",
        server.address
    );
    let config = Config::parse(&text, Path::new("/etc/deskmilter/deskmilter.toml")).unwrap();
    let key = SiteKey::parse(&SiteKey::generate().unwrap()).unwrap();
    Pipeline::new(&config, key, &Budget::new(1 << 26)).unwrap()
}

/// What our Authentication-Results field says.
async fn judge(pipeline: &Pipeline, case: &Case) -> Found {
    let mut builder = HeadersBuilder::new(1 << 20);
    let block = builder.push(&case.message).unwrap().unwrap_or_else(|| builder.finish());
    let mail = Mail {
        connection: Arc::new(Connection {
            client: Client::Network(case.client.parse().unwrap()),
            helo: Some(case.helo.clone()),
            ..Connection::default()
        }),
        envelope: Envelope {
            sender: MailPath::parse(case.sender.as_bytes()).unwrap(),
            recipients: vec![MailPath::parse(b"support@acme.example").unwrap()],
            ..Envelope::default()
        },
        headers: block.headers,
        body: Body::from_octets(block.body),
        shortfall: None,
        queue_id: None,
    };
    let verdict = pipeline.judge(&mail).await;
    let field = verdict.edits.iter().find_map(|edit| match edit {
        HeaderEdit::Prepend(field) if field.is("Authentication-Results") => Some(field),
        _ => None,
    });
    read(field.unwrap())
}

fn read(field: &Header) -> Found {
    let text = field.text();
    let mut found = Found { dkim: Vec::new(), spf: String::new(), dmarc: String::new() };
    for result in text.split(';').skip(1) {
        let mut words = result.split_whitespace();
        let Some((method, outcome)) = words.next().and_then(|word| word.split_once('=')) else { continue };
        match method {
            "dkim" if outcome != "none" => found.dkim.push(outcome.to_owned()),
            "spf" => found.spf = outcome.to_owned(),
            "dmarc" => {
                let policy = words.next().and_then(|word| word.strip_prefix('(')?.strip_suffix(')'));
                found.dmarc = match (outcome, policy) {
                    ("fail", Some(policy)) => format!("fail {policy}"),
                    _ => outcome.to_owned(),
                };
            }
            _ => {}
        }
    }
    found
}

fn compare(case: &'static str, ours: &Found, theirs: &Found) -> [Row; 3] {
    let row = |method, ours: &str, theirs: &str, equal| Row {
        case,
        method,
        ours: if ours.is_empty() { "none".to_owned() } else { ours.to_owned() },
        theirs: if theirs.is_empty() { "none".to_owned() } else { theirs.to_owned() },
        equal,
    };
    [
        row("dkim", &ours.dkim.join(", "), &theirs.dkim.join(", "), classes(&ours.dkim) == classes(&theirs.dkim)),
        row("spf", &ours.spf, &theirs.spf, ours.spf == theirs.spf),
        row("dmarc", &ours.dmarc, &theirs.dmarc, ours.dmarc == theirs.dmarc),
    ]
}

/// dkimpy knows good and not good; mail-auth lists unreadable signatures before the others.
fn classes(results: &[String]) -> Vec<&str> {
    let mut classes: Vec<&str> = results
        .iter()
        .map(|result| match result.as_str() {
            "pass" => "pass",
            "temperror" => "temperror",
            _ => "fail",
        })
        .collect();
    classes.sort_unstable();
    classes
}

fn difference(row: &Row) -> Option<&'static Difference> {
    DIFFERENCES.iter().find(|known| known.case == row.case && known.method == row.method)
}

/// What is wrong with the rows or the list of differences.
fn unexplained(rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows {
        let as_listed = difference(row).map(|known| known.ours == row.ours && known.theirs == row.theirs);
        match (row.equal, as_listed) {
            (true, None) | (false, Some(true)) => {}
            (true, Some(_)) => wrong.push(format!("{}, {}: the listed difference is gone", row.case, row.method)),
            (false, _) => wrong.push(format!("{}, {}: ours {}, theirs {}", row.case, row.method, row.ours, row.theirs)),
        }
    }
    for known in DIFFERENCES {
        if !rows.iter().any(|row| row.case == known.case && row.method == known.method) {
            wrong.push(format!("{}, {}: no such case", known.case, known.method));
        }
    }
    wrong
}

fn table(rows: &[Row]) -> String {
    let mut text = "| case | method | ours | theirs | |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        let remark = match (row.equal, difference(row)) {
            (true, _) => "equal",
            (false, Some(known)) => known.argument,
            (false, None) => "DIFFERENT",
        };
        writeln!(text, "| {} | {} | {} | {} | {remark} |", row.case, row.method, row.ours, row.theirs).unwrap();
    }
    text
}

/// The differences alone, as they stand in the document.
fn arguments() -> String {
    let mut text = "| case | method | ours | theirs | why |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for known in DIFFERENCES {
        let Difference { case, method, ours, theirs, argument } = known;
        writeln!(text, "| {case} | {method} | {ours} | {theirs} | {argument} |").unwrap();
    }
    text
}

fn document(table: &str) -> String {
    format!(
        "# Verdicts beside independent verifiers\n\n\
         `tests/verdicts` judges every message twice with the same name server: by the pipeline, and by dkimpy (DKIM), pyspf\n\
         (SPF) and OpenDMARC (DMARC, resting on what the other two found). DKIM counts as good, not good or temporary,\n\
         because dkimpy does not tell more; all other results are compared word by word.\n\n\
         Written by `{WRITE}=1 cargo test --test verdicts`; the test fails when the list of differences below is not the\n\
         one that it knows, when a difference is not on it, and when one on it is gone.\n\n\
         ## Differences\n\n{}\n## All results\n\n{table}",
        arguments()
    )
}
